"""Inputs, as the program takes them, and their ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import dspy

from dspy_mlflow_callbacks.describe.demos import digest
from dspy_mlflow_callbacks.describe.payloads import to_json

MAX_ID_CHARACTERS = 4_096
"""MLflow's limit for the value of a tag."""

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def arguments_of(given: Any) -> Arguments:
    """Return the positional arguments and those by name with which a program is called for an input.

    Raises:
        TypeError: if it is no input.
    """
    if isinstance(given, dspy.Example):
        return (), dict(given.inputs().items())
    if isinstance(given, Mapping):
        return (), dict(given)
    if isinstance(given, tuple):
        return given, {}
    message = (
        "an input must be a mapping of arguments by name, a dspy.Example with its inputs, or a tuple of positional "
        f"arguments, got {given!r}"
    )
    raise TypeError(message)


def id_of(given: Any, arguments: Arguments, input_id: Callable[[Any], Any] | None) -> str:
    """Return the id of an input: what *input_id* says of it, or a digest of its arguments, 16 hexadecimal digits.

    Raises:
        ValueError: if what it says is empty or longer than MLflow stores.
    """
    if input_id is None:
        args, kwargs = arguments
        return digest(to_json([*args, dict(sorted(kwargs.items()))]))
    said = str(input_id(given))
    if not 0 < len(said) <= MAX_ID_CHARACTERS:
        message = f"input_id must return a text of 1 to {MAX_ID_CHARACTERS} characters, got {said[:50]!r}"
        raise ValueError(message)
    return said
