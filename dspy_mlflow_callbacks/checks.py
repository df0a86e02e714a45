"""Checks of arguments that several rooms share: each error says what was given and what is allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import attrs


def items(argument: str, value: Any, of: str) -> tuple[Any, ...]:
    """Return what is in *value*, which is no text.

    Args:
        argument: The argument's name.
        value: What was given for it.
        of: What is to be in it.

    Raises:
        TypeError: if *value* is a text or no iterable.
    """
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        message = f"{argument} must be an iterable of {of}, got {value!r}"
        raise TypeError(message)
    return tuple(value)


def callables(argument: str, steps: Any, contract: str) -> tuple[Any, ...]:
    """Return *steps* as a tuple.

    Args:
        argument: The argument's name.
        steps: What was given for it.
        contract: What each step must be, such as `CallStart -> CallStart | None`.

    Raises:
        TypeError: if *steps* is not an iterable of callables, or holds a class where an instance is meant.
    """
    checked = items(argument, steps, "callables")
    for position, step in enumerate(checked):
        if not callable(step):
            message = f"{argument}[{position}] must be a callable {contract}, got {step!r}"
            raise TypeError(message)
        if isinstance(step, type):
            message = f"{argument}[{position}] must be an instance, got the class {step.__name__}"
            raise TypeError(message)
    return checked


def number(
    allowed: str,
    fits: Callable[[float], bool],
    *,
    in_range: str = "",
    mistyped: type[TypeError | ValueError] = TypeError,
) -> Callable[[Any], float]:
    """Return a check that a value is a number, which True and False are not, and fits.

    A check returns a value as it is kept. It raises TypeError if the value is of another type, and ValueError if it
    does not fit; the message says what was given and what is allowed, and `named` puts a name before it.

    Args:
        allowed: What the value must be, such as `a number from 0 on`.
        fits: Whether a number is allowed.
        in_range: What a number must be that does not fit, where *allowed* does not say it.
        mistyped: What a value of another type raises.
    """
    return _numeric((int, float), allowed, fits, in_range or allowed, mistyped)


def whole_number(allowed: str, least: int, *, in_range: str = "") -> Callable[[Any], int]:
    """Return a check that a value is a whole number and at least *least*; all else is as in `number`."""
    return _numeric((int,), allowed, lambda value: value >= least, in_range or allowed, TypeError)


def _numeric(
    types: tuple[type, ...], allowed: str, fits: Callable[[Any], bool], in_range: str, mistyped: type[Exception]
) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, types):
            message = f"must be {allowed}, got {value!r}"
            raise mistyped(message)
        if not fits(value):
            message = f"must be {in_range}, got {value!r}"
            raise ValueError(message)
        return value

    return check


def one_of(choices: Iterable[Any], *, shown: Callable[[Any], str] = str) -> Callable[[Any], Any]:
    """Return a check that a value is one of *choices*: an equal text, or the same object.

    Args:
        choices: What is allowed.
        shown: How the message shows each of them.
    """
    allowed = tuple(choices)

    def check(value: Any) -> Any:
        for each in allowed:
            if value is each or (isinstance(value, str) and value == each):
                return each
        message = f"must be one of {', '.join(map(shown, allowed))}, got {value!r}"
        raise ValueError(message)

    return check


def true_or_false(value: Any) -> bool:
    """Check that a value is a bool.

    Raises:
        TypeError: if it is not.
    """
    if not isinstance(value, bool):
        message = f"must be True or False, got {value!r}"
        raise TypeError(message)
    return value


def optional(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a check that lets None through and asks *check* for anything else."""
    return lambda value: None if value is None else check(value)


def named(name: str, check: Callable[[Any], Any], value: Any) -> Any:
    """Return what *check* makes of *value*; its error begins with *name*.

    Raises:
        TypeError: if the check raises one.
        ValueError: likewise.
    """
    try:
        return check(value)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        message = f"{name} {error}"
        raise kind(message) from None


def argument(check: Callable[[Any], Any]) -> Callable[[Any, attrs.Attribute[Any], Any], None]:
    """Return *check* as a validator of attrs; its error begins with the attribute's name."""

    def validate(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        named(attribute.name, check, value)

    return validate


share = argument(number("a number from 0 to 1", lambda value: 0 <= value <= 1))
"""Check that an attribute is a number from 0 to 1; a validator of attrs."""


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
