"""What an option is: a field that says what it is for, what it takes, and how a variable's text becomes its value."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

from dspy_mlflow_callbacks.checks import named
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
            return named(f"{field.name}:", check, value)
        except (TypeError, ValueError):
            raise
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
