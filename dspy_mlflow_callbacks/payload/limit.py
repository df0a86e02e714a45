"""Shortening what is too long."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import attrs
import orjson

from dspy_mlflow_callbacks import checks
from dspy_mlflow_callbacks.payload.step import Payload

_NOTE_CHARACTERS = 60  # of what stands for the rest of a text, at most
_REFERENCE = "mlflow-attachment://"

# What MLflow parses (its chat view, its token and cost charts): texts in it are shortened, its structure stays.
_PARSED = "mlflow."

_characters = checks.whole_number("a number of characters", 1, in_range="at least 1 character")


@attrs.frozen
class PayloadLimit:
    """Cuts payloads that are too long, and notes their full length and a digest.

    Of JSON the longest texts are cut, so that it can be read as before: a chat keeps its messages. What is long without
    long texts becomes one text. A stack trace keeps its end. References to attachments, and what MLflow counts with,
    stay whole; so do tags and metadata, for which MLflow has its own limits.

    Args:
        max_chars: The most characters of a payload's text that leave, each note of what was cut (60 characters at
            most) on top.

    Raises:
        TypeError: if *max_chars* is no whole number.
        ValueError: if it is less than 1.

    Example:
        ```python
        dspy.configure(callbacks=[MlflowCallback(payload_steps=[Redactor(), PayloadLimit(100_000)])])
        ```
    """

    max_chars: int = attrs.field(validator=checks.argument(_characters))

    def clears(self, text: str) -> bool:
        """Return whether *text* is short enough."""
        return len(text) <= self.max_chars

    def __call__(self, payload: Payload) -> Payload:
        """Return *payload*, or a shorter one with a note."""
        if len(payload.text) <= self.max_chars or payload.place in ("tag", "metadata"):
            return payload
        value = _parsed(payload)
        if value is None and "stacktrace" in payload.name:
            return payload.with_text(f"{_note(payload.text)} …{payload.text[-self.max_chars :]}")
        if value is None:
            return payload.with_text(f"{payload.text[: self.max_chars]}… {_note(payload.text)}")
        lengths = sorted(map(_length, _long_texts(value)))
        longest = _longest(lengths, _length(value) - self.max_chars)
        if longest is None and (payload.name.startswith(_PARSED) or _REFERENCE in payload.text):
            longest = 0  # there is nothing else to cut
        if longest is None:
            return payload.with_value(_cut(value if isinstance(value, str) else payload.text, self.max_chars))
        return payload.with_value(_with_texts_cut(value, longest))


def _note(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]
    return f"[cut: {len(text)} characters, sha256 {digest}]"


def _cut(text: str, characters: int) -> str:
    return f"{_beginning(text, characters)}… {_note(text)}"


def _with_texts_cut(value: Any, longest: int) -> Any:
    if isinstance(value, dict):
        return {key: _with_texts_cut(item, longest) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_texts_cut(item, longest) for item in value]
    is_cut = _is_long(value) and _length(value) > longest
    return _cut(value, longest) if is_cut else value


def _beginning(text: str, characters: int) -> str:
    """Return as much of *text* as has that many characters in JSON."""
    kept = text[:characters]
    while (length := _length(kept)) > characters:
        kept = kept[: len(kept) * characters // length]
    return kept


def _length(value: Any) -> int:
    """Return the number of characters that a value has in JSON, a text's quotes not counted."""
    length = len(orjson.dumps(value).decode())
    return length - 2 if isinstance(value, str) else length


def _parsed(payload: Payload) -> Any:
    try:
        return orjson.loads(payload.text) if payload.is_json else None
    except orjson.JSONDecodeError:
        return None


def _long_texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _long_texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _long_texts(item)
    elif _is_long(value):
        yield value


def _is_long(value: Any) -> bool:
    """Return whether *value* is a text that is worth cutting: the note is no longer than what it stands for."""
    return isinstance(value, str) and len(value) > _NOTE_CHARACTERS and not value.startswith(_REFERENCE)


def _longest(lengths: list[int], surplus: int) -> int | None:
    """Return to how many characters the longest texts are cut to save *surplus* characters; None if they are too few.

    Args:
        lengths: Those of all texts that may be cut, in ascending order.
        surplus: Characters that are too many.
    """
    for cut, length in enumerate(reversed(lengths), start=1):
        shorter = lengths[-cut - 1] if cut < len(lengths) else 0
        if surplus <= cut * (length - shorter):
            return length - -(-surplus // cut)
        surplus -= cut * (length - shorter)
    return None
