"""What an option is: a field that says what it is for, what it takes, and how a variable's text becomes its value."""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

from dspy_mlflow_callbacks.events import CallKind
from dspy_mlflow_callbacks.middleware import SamplingRule
from dspy_mlflow_callbacks.tail_sampling import TailSampler


def option(
    default: Any,
    doc: str,
    *,
    allowed: str,
    read: Callable[[str], Any],
    check: Callable[[Any], Any],
    unit: str = "",
    is_hashable: bool = True,
    takes_empty: bool = False,
) -> Any:
    """Return the field of an option.

    Args:
        default: What holds when nothing is said.
        doc: What it is for.
        allowed: Which values it takes.
        read: Makes a value of a variable's text, or raises ValueError.
        check: Returns a value as it is kept, or raises TypeError or ValueError.
        unit: What a number is measured in.
        is_hashable: Whether its values can be hashed.
        takes_empty: Whether an empty text is a value, in its variable too.
    """

    def convert(value: Any, _: object, field: attrs.Attribute[Any]) -> Any:
        try:
            return check(value)
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            message = f"{field.name}: {error}"
            raise kind(message) from None
        except Exception as error:
            message = f"{field.name}: the value cannot be read: it raised {type(error).__name__}"
            raise TypeError(message) from error

    converter: Any = attrs.Converter(convert, takes_self=True, takes_field=True)
    metadata = {"doc": doc, "allowed": allowed, "read": read, "check": check, "unit": unit, "takes_empty": takes_empty}
    return attrs.field(default=default, converter=converter, metadata=metadata, hash=None if is_hashable else False)


def refuse_unknown(names: Iterable[object], options: Mapping[str, object]) -> None:
    """Raise TypeError if one of *names* is no option; it says which one may have been meant."""
    for name in names:
        if name not in options:
            close = difflib.get_close_matches(str(name), options, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"allowed are {', '.join(options)}"
            message = f"{name!r} is no option; {hint}"
            raise TypeError(message)


def plain(name: str, value: Any) -> Any:
    """Return the value of the option *name* as JSON values.

    Raises:
        TypeError: if it is or holds a callable.
    """
    if callable(value):
        message = f"{name} is or holds a callable, which JSON cannot say: {value!r}"
        raise TypeError(message)
    if isinstance(value, CallKind):
        return value.value
    if isinstance(value, (SamplingRule, TailSampler)):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {key: plain(name, item) for key, item in value.items()}
    if isinstance(value, frozenset):
        return sorted(plain(name, item) for item in value)
    return [plain(name, item) for item in value] if isinstance(value, tuple) else value


def kept(name: str, value: Any) -> Any:
    """Return the value of the option *name* as JSON values where JSON can say it, else as it is."""
    try:
        return plain(name, value)
    except TypeError:
        return value


def default_text(field: attrs.Attribute[Any]) -> str:
    """Return the default of an option as documentation and warnings say it: its JSON, `none` for None."""
    value = plain(field.name, field.default)
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)


def documentation(field: attrs.Attribute[Any], variable: str) -> str:
    """Return what can be said of an option in one paragraph."""
    allowed = f"Allowed: {field.metadata['allowed']}."
    unit = f" Unit: {field.metadata['unit']}." if field.metadata["unit"] else ""
    return f"{field.metadata['doc']} {allowed}{unit} Default: {default_text(field)}. Variable: {variable}."


def number_from(least: float) -> Callable[[Any], float]:
    """Return a check that a value is a number and at least *least*."""
    return _number(lambda value: value >= least, f"from {least} on")


def number_above(bound: float) -> Callable[[Any], float]:
    """Return a check that a value is a number and above *bound*."""
    return _number(lambda value: value > bound, f"above {bound}")


def _number(fits: Callable[[float], bool], allowed: str) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            message = f"must be a number {allowed}, got {value!r}"
            raise TypeError(message)
        if not (math.isfinite(value) and fits(value)):
            message = f"must be a number {allowed}, got {value!r}"
            raise ValueError(message)
        return value

    return check


def whole_number_from(least: int) -> Callable[[Any], int]:
    """Return a check that a value is a whole number and at least *least*."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            message = f"must be a whole number from {least} on, got {value!r}"
            raise TypeError(message)
        if value < least:
            message = f"must be a whole number from {least} on, got {value!r}"
            raise ValueError(message)
        return value

    return check


def one_of(choices: Iterable[str]) -> Callable[[Any], str]:
    """Return a check that a value is one of *choices*."""
    allowed = tuple(choices)

    def check(value: Any) -> str:
        if value not in allowed:
            message = f"must be one of {', '.join(allowed)}, got {value!r}"
            raise ValueError(message)
        return str(value)

    return check


def manner(choices: tuple[str, ...]) -> Callable[[Any], str]:
    """Return a check that a value is one of *choices*; True is the first of them, False the last."""
    check = one_of(choices)
    return lambda value: choices[0 if value else -1] if isinstance(value, bool) else check(value)


def true_or_false(value: Any) -> bool:
    """Check that a value is a bool."""
    if not isinstance(value, bool):
        message = f"must be True or False, got {value!r}"
        raise TypeError(message)
    return value


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


def optional(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a check that lets None through and asks *check* for anything else."""
    return lambda value: None if value is None else check(value)
