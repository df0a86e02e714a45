"""The kinds of option: those of one kind take the same values, from code and from a variable's text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from dspy_mlflow_callbacks.checks import number, one_of, optional, true_or_false, whole_number
from dspy_mlflow_callbacks.config import environment
from dspy_mlflow_callbacks.config.option_values import one_manner_of
from dspy_mlflow_callbacks.config.options import option
from dspy_mlflow_callbacks.events import EMPTY


def switch(doc: str) -> Any:
    """Return the field of an option that is on or off; on by default."""
    return option(default=True, doc=doc, allowed="true or false", read=environment.as_bool, check=true_or_false)


def count(default: int, doc: str, *, unit: str) -> Any:
    """Return the field of an option that is a whole number of things, one at least."""
    allowed = "a whole number from 1 on"
    check = whole_number(allowed, 1)
    return option(default, doc, allowed=allowed, unit=unit, read=environment.as_whole_number, check=check)


def seconds(default: float, doc: str, *, from_zero: bool = False) -> Any:
    """Return the field of an option that is a length of time, in seconds."""
    allowed = "a number from 0 on" if from_zero else "a number above 0"
    check = number(allowed, lambda value: math.isfinite(value) and (value >= 0 if from_zero else value > 0))
    return option(default, doc, allowed=allowed, unit="seconds", read=environment.as_number, check=check)


def choice(default: str | None, doc: str, choices: Iterable[str]) -> Any:
    """Return the field of an option that is one of a few words; or none, where that is the default."""
    check = optional(one_of(choices)) if default is None else one_of(choices)
    return option(default, doc, allowed=", ".join(choices), read=str, check=check)


def manner(doc: str, choices: tuple[str, ...]) -> Any:
    """Return the field of an option that is a way of recording: the first is the default and True, the last False."""
    allowed = f"{', '.join(choices)}; true is {choices[0]}, false is {choices[-1]}"
    return option(choices[0], doc, allowed=allowed, read=environment.as_manner, check=one_manner_of(choices))


def text(doc: str, check: Callable[[Any], Any]) -> Any:
    """Return the field of an option that is a text, for all traces or for each; none by default."""
    allowed = "a text of at most 250 characters; in code also a callable that is given the call where a trace begins"
    return option(None, doc, allowed=allowed, read=str, check=check)


def texts(doc: str, check: Callable[[Any], Any]) -> Any:
    """Return the field of an option that is texts by name, for all traces or for each; empty by default."""
    allowed = "a JSON object of texts, or `name=value,name=value`; in code also callables for values"
    return option(EMPTY, doc, allowed=allowed, read=environment.as_mapping, check=check, is_hashable=False)


def listed(doc: str, check: Callable[[Any], Any]) -> Any:
    """Return the field of an option that is a list of texts; empty by default."""
    allowed = "texts with commas between them, or a JSON list"
    return option((), doc, allowed=allowed, read=environment.as_list, check=check)
