"""Where a replay leaves its recording, and how the two differ there."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any, Literal

import attrs

from dspy_mlflow_callbacks.replaying.marks import agrees, without_frames

Kind = Literal["prompt", "parameters", "tool", "extra", "missing", "outputs", "error"]


@attrs.frozen(kw_only=True)
class Divergence:
    """One place where a replay left its recording.

    Attributes:
        kind: What differs: the `prompt` of an LM call or its `parameters`, the arguments of a `tool`'s call; a call
            that is `extra` or `missing`; the program's `outputs` or the `error` that it raised.
        span: The recorded span's name, behind that of the module that made the call; for an extra call where it was
            made.
        span_id: MLflow's id of the recorded span; None for an extra call.
        field: What in the span differs, such as `messages[0] (system)`.
        diff: Lines of a unified diff from the recording to the replay.
    """

    kind: Kind
    span: str
    span_id: str | None
    field: str
    diff: str = attrs.field(repr=False)

    def __str__(self) -> str:
        at = self.span if self.span_id is None else f"{self.span} (span {self.span_id})"
        return f"{self.kind}: {at}, {self.field}"

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes by name as JSON values."""
        return attrs.asdict(self)


def first_difference(recorded: Any, actual: Any) -> tuple[str, str] | None:
    """Return what differs first in what a call was given, and a unified diff of the whole; None where nothing does."""
    if agrees(recorded, actual):
        return None
    both = isinstance(recorded, dict) and isinstance(actual, dict)
    return (_field(recorded, actual) if both else "inputs"), diff(recorded, actual)


def _field(recorded: dict[str, Any], actual: dict[str, Any]) -> str:
    differing = [key for key in {**recorded, **actual} if not agrees(recorded.get(key), actual.get(key))]
    if differing[0] == "messages":
        return _message(recorded.get("messages") or [], actual.get("messages") or [])
    return differing[0]


def _message(recorded: list[Any], actual: list[Any]) -> str:
    pairs = enumerate(zip(recorded, actual, strict=False))
    index = next((index for index, pair in pairs if not agrees(*pair)), min(len(recorded), len(actual)))
    role = (actual if index < len(actual) else recorded)[index].get("role")
    return f"messages[{index}] ({role})"


def diff(recorded: Any, actual: Any) -> str:
    """Return a unified diff of two payloads, of which prompts are written as people read them."""
    before, after = list(_lines(recorded)), list(_lines(_with_marks(recorded, actual)))
    return "\n".join(difflib.unified_diff(before, after, "recorded", "replayed", lineterm=""))


def _with_marks(recorded: Any, actual: Any) -> Any:
    """Return *actual* with what cannot be told apart written as in the recording, so that it is no difference."""
    if agrees(recorded, actual):
        return recorded
    if isinstance(recorded, dict) and isinstance(actual, dict):
        return {key: _with_marks(recorded.get(key), value) for key, value in actual.items()}
    if isinstance(recorded, list) and isinstance(actual, list):
        known = [*recorded, *[None] * (len(actual) - len(recorded))]
        return [_with_marks(*pair) for pair in zip(known, actual, strict=False)]
    return actual


def _lines(value: Any) -> Iterator[str]:
    messages = value.get("messages") if isinstance(value, dict) else None
    if not isinstance(messages, list):
        yield from _text(value).splitlines()
        return
    for index, message in enumerate(messages):
        yield f"[{index}] {message.get('role')}:"
        yield from _text(message.get("content")).splitlines()
        rest = {key: item for key, item in message.items() if key not in ("role", "content")}
        yield from _text(rest).splitlines() if rest else ()
    rest = {key: item for key, item in value.items() if key != "messages"}
    yield from _text(rest).splitlines() if rest else ()


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True)
    return _BINARY.sub(_digest, without_frames(text))


# Longer than any word: what images and the like are in JSON.
_BINARY = re.compile(r"[A-Za-z0-9+/]{200,}={0,2}")


def _digest(match: re.Match[str]) -> str:
    return f"[{len(match[0])} characters, sha256 {hashlib.sha256(match[0].encode()).hexdigest()[:16]}]"
