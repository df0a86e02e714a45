"""The arguments of `run`, checked."""

from __future__ import annotations

import math
from collections.abc import Iterable
from concurrent.futures import Executor
from typing import Any

import attrs
import dspy

from dspy_mlflow_callbacks.executor.progress import ALWAYS

_SWITCH = (True, False)
PLACES = ("threads", "asyncio", "processes", "ray", "dask", "spark")


def _one_of(*allowed: object) -> Any:
    def check(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if not any(value is each or (isinstance(value, str) and value == each) for each in allowed):
            message = f"{attribute.name} must be one of {', '.join(map(repr, allowed))}, got {value!r}"
            raise ValueError(message)

    return check


def _whole(least: int) -> Any:
    def check(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if value is None and attribute.default is None:
            return
        if isinstance(value, bool) or not isinstance(value, int):
            message = f"{attribute.name} must be a whole number, got {value!r}"
            raise TypeError(message)
        if value < least:
            message = f"{attribute.name} must be at least {least}, got {value!r}"
            raise ValueError(message)

    return check


def _program(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, dspy.Module):
        message = f"program must be a dspy.Module, got {value!r}"
        raise TypeError(message)


def _inputs(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if isinstance(value, (str, bytes, dict, dspy.Example)) or not isinstance(value, Iterable):
        message = f"inputs must be an iterable of inputs, got {value!r}"
        raise TypeError(message)


def _place(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, Executor):
        _one_of(*PLACES)(None, attribute, value)


def _seconds(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is not None and not (is_number and 0 < value < math.inf):
        message = f"timeout must be a number of seconds above 0, or None, got {value!r}"
        raise ValueError(message)


def _name(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and not (isinstance(value, str) and value and len(value) <= _MAX_NAME_CHARACTERS):
        message = f"name must be a text of 1 to {_MAX_NAME_CHARACTERS} characters, or None, got {value!r}"
        raise ValueError(message)


_MAX_NAME_CHARACTERS = 250


def _function(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and not callable(value):
        message = f"input_id must be a function of an input, or None, got {value!r}"
        raise TypeError(message)


@attrs.frozen(eq=False, kw_only=True)
class Options:
    """The arguments of `run`, which says what they mean.

    Raises:
        TypeError: if one is of another type.
        ValueError: if one is out of range, or does not go with another.
    """

    program: Any = attrs.field(validator=_program)
    inputs: Any = attrs.field(validator=_inputs)
    on: Any = attrs.field(validator=_place)
    max_workers: int | None = attrs.field(default=None, validator=_whole(1))
    trace: str = attrs.field(validator=_one_of("each", "one"))
    on_error: str = attrs.field(validator=_one_of("raise", "keep", "skip"))
    retries: int = attrs.field(validator=_whole(0))
    timeout: float | None = attrs.field(validator=_seconds)
    progress: Any = attrs.field(validator=_one_of(*_SWITCH, ALWAYS))
    name: str | None = attrs.field(validator=_name)
    resume: bool = attrs.field(validator=_one_of(*_SWITCH))
    input_id: Any = attrs.field(validator=_function)
    window: int | None = attrs.field(default=None, validator=_whole(1))

    def __attrs_post_init__(self) -> None:
        if self.resume and self.trace == "one":
            message = "resume=True finds the traces of inputs, and needs trace='each', got trace='one'"
            raise ValueError(message)
