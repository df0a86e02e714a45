"""What the variables of all options say together, and what cannot hold of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from dspy_mlflow_callbacks.config import environment
from dspy_mlflow_callbacks.config.environment import Wrong, variable_of
from dspy_mlflow_callbacks.config.option_table import OPTIONS
from dspy_mlflow_callbacks.config.options import default_text

WITHOUT_WHOLE_TRACES = "a tail sampler needs whole traces, which engine='native' does not have"
"""Why `tail_sampler` does not stand beside that engine."""


def wrong_variables(environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return what is wrong with the variables of this package, each with what is allowed."""
    return tuple(each.message for each in said_by_variables(environ, {})[1])


def said_by_variables(environ: Mapping[str, str], arguments: Mapping[str, Any]) -> tuple[dict[str, Any], list[Wrong]]:
    """Return what variables say of the options that are no arguments, and what is wrong with them."""
    read = {name: environment.read(field, environ) for name, field in OPTIONS.items() if name not in arguments}
    wrong = [value for value in read.values() if isinstance(value, Wrong)]
    said = {name: value for name, value in read.items() if value is not None and not isinstance(value, Wrong)}
    wrong += _clashes(said, arguments)
    return said, [*wrong, *environment.unknown(OPTIONS, environ)]


def _clashes(said: dict[str, Any], arguments: Mapping[str, Any]) -> Iterator[Wrong]:
    """Take out of *said*, which is what variables say, what cannot hold beside the rest."""
    for name in ("tail_sampler", "engine"):
        options = {**said, **arguments}
        if name in said and options.get("engine") == "native" and options.get("tail_sampler") is not None:
            default = default_text(OPTIONS[name])
            message = f"{variable_of(name)} is ignored: {WITHOUT_WHOLE_TRACES}. The default stands: {default}."
            yield Wrong((name, repr(said.pop(name))), message)
