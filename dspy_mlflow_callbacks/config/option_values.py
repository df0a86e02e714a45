"""Checks of what only options take."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from dspy_mlflow_callbacks.checks import one_of


def one_manner_of(choices: tuple[str, ...]) -> Callable[[Any], str]:
    """Return a check that a value is one of *choices*; True is the first of them, False the last."""
    check = one_of(choices)
    return lambda value: choices[0 if value else -1] if isinstance(value, bool) else check(value)


def true_or_false_or(word: str) -> Callable[[Any], bool | str]:
    """Return a check that a value is a bool, or *word*."""

    def check(value: Any) -> bool | str:
        if isinstance(value, bool):
            return value
        if value == word:
            return word
        message = f"must be True, False or {word!r}, got {value!r}"
        raise (ValueError if isinstance(value, str) else TypeError)(message)

    return check


def folder_or_nothing(value: Any) -> str | None:
    """Return a folder's path as a text; an empty one and None stay."""
    if value is None:
        return None
    if not isinstance(value, (str, os.PathLike)) or not isinstance(text := os.fspath(value), str):
        message = f"must be a path, got {value!r}"
        raise TypeError(message)
    if "\0" in text:
        message = f"must be a path, got {value!r}"
        raise ValueError(message)
    return text


def text_of_at_most(max_characters: int) -> Callable[[Any], str]:
    """Return a check that a value is a text of 1 to *max_characters* characters."""

    def check(value: Any) -> str:
        if not isinstance(value, str):
            message = f"must be a text, got {value!r}"
            raise TypeError(message)
        if not 1 <= len(value) <= max_characters:
            message = f"must have 1 to {max_characters} characters, got {len(value)}"
            raise ValueError(message)
        return value

    return check
