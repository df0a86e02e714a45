"""Shortening what is too long."""

from __future__ import annotations

import hashlib

import attrs

from dspy_mlflow_callbacks.payload.step import Payload


def _check_characters(_: object, attribute: attrs.Attribute[int], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        message = f"{attribute.name} must be a number of characters, got {value!r}"
        raise TypeError(message)
    if value < 1:
        message = f"{attribute.name} must be at least 1 character, got {value!r}"
        raise ValueError(message)


@attrs.frozen
class PayloadLimit:
    """Cuts payloads that are too long, and notes their full length and a digest.

    Args:
        max_chars: The most characters of a payload's text that leave.

    Raises:
        TypeError: if *max_chars* is no whole number.
        ValueError: if it is less than 1.
    """

    max_chars: int = attrs.field(validator=_check_characters)

    def clears(self, text: str) -> bool:
        """Return whether *text* is short enough."""
        return len(text) <= self.max_chars

    def __call__(self, payload: Payload) -> Payload:
        """Return *payload*, or the beginning of it with a note."""
        text = payload.text
        if len(text) <= self.max_chars:
            return payload
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        return payload.with_value(f"{text[: self.max_chars]}… [cut: {len(text)} characters, sha256 {digest}]")
