"""Checks of arguments that several rooms share: each error says what was given and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import attrs


def callables(argument: str, steps: Any, contract: str) -> tuple[Any, ...]:
    """Return *steps* as a tuple.

    Args:
        argument: The argument's name.
        steps: What was given for it.
        contract: What each step must be, such as `CallStart -> CallStart | None`.

    Raises:
        TypeError: if *steps* is not an iterable of callables, or holds a class where an instance is meant.
    """
    if isinstance(steps, (str, bytes)) or not isinstance(steps, Iterable):
        message = f"{argument} must be an iterable of callables, got {steps!r}"
        raise TypeError(message)
    checked = tuple(steps)
    for position, step in enumerate(checked):
        if not callable(step):
            message = f"{argument}[{position}] must be a callable {contract}, got {step!r}"
            raise TypeError(message)
        if isinstance(step, type):
            message = f"{argument}[{position}] must be an instance, got the class {step.__name__}"
            raise TypeError(message)
    return checked


def share(_: object, attribute: attrs.Attribute[float], value: object) -> None:
    """Check that an attribute is a number from 0 to 1; a validator of attrs.

    Raises:
        TypeError: if it is no number.
        ValueError: if it is not from 0 to 1.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        message = f"{attribute.name} must be a number from 0 to 1, got {value!r}"
        raise TypeError(message)
    if math.isnan(value) or not 0 <= value <= 1:
        message = f"{attribute.name} must be a number from 0 to 1, got {value!r}"
        raise ValueError(message)


def stable_repr(value: Any) -> str:
    """Return the repr of *value*; that of a set in order, which differs from set to set and from process to process."""
    return f"frozenset({{{', '.join(sorted(map(repr, value)))}}})" if isinstance(value, frozenset) else repr(value)


def brief_repr(value: Any) -> str:
    """Return the repr of an attrs value that says only what is not at its default."""
    said = [
        f"{field.alias}={stable_repr(getattr(value, field.name))}"
        for field in attrs.fields(type(value))
        if field.init and getattr(value, field.name) != field.default
    ]
    return f"{type(value).__name__}({', '.join(said)})"
