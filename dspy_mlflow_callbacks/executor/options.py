"""The arguments of `run`, checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from typing import Any

import attrs
import dspy

from dspy_mlflow_callbacks import checks
from dspy_mlflow_callbacks.executor.progress import ALWAYS

PLACES = ("threads", "asyncio", "processes", "ray", "dask", "spark")
_MAX_NAME_CHARACTERS = 250


def _one_of(*allowed: object) -> Any:
    return checks.argument(checks.one_of(allowed, shown=repr))


def _whole(least: int) -> Callable[[Any], int]:
    return checks.whole_number("a whole number", least, in_range=f"at least {least}")


def _or_none(check: Callable[[Any], Any]) -> Any:
    return checks.argument(checks.optional(check))


_switch = _one_of(True, False)  # noqa: FBT003  (values, not switches)
_seconds = checks.number("a number of seconds above 0, or None", lambda said: 0 < said < math.inf, mistyped=ValueError)


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


def _name(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and not (isinstance(value, str) and value and len(value) <= _MAX_NAME_CHARACTERS):
        message = f"name must be a text of 1 to {_MAX_NAME_CHARACTERS} characters, or None, got {value!r}"
        raise ValueError(message)


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
    max_workers: int | None = attrs.field(default=None, validator=_or_none(_whole(1)))
    trace: str = attrs.field(validator=_one_of("each", "one"))
    on_error: str = attrs.field(validator=_one_of("raise", "keep", "skip"))
    retries: int = attrs.field(validator=checks.argument(_whole(0)))
    timeout: float | None = attrs.field(validator=_or_none(_seconds))
    progress: Any = attrs.field(validator=_one_of(True, False, ALWAYS))  # noqa: FBT003  (values, not switches)
    name: str | None = attrs.field(validator=_name)
    resume: bool = attrs.field(validator=_switch)
    input_id: Any = attrs.field(validator=_function)
    window: int | None = attrs.field(default=None, validator=_or_none(_whole(1)))

    def __attrs_post_init__(self) -> None:
        if self.resume and self.trace == "one":
            message = "resume=True finds the traces of inputs, and needs trace='each', got trace='one'"
            raise ValueError(message)
