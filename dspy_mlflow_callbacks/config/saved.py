"""A configuration that was saved, perhaps by another version of this package, in the environment of now."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from dspy_mlflow_callbacks.config import environment
from dspy_mlflow_callbacks.config.environment import Wrong, variable_of
from dspy_mlflow_callbacks.config.option_table import OPTIONS
from dspy_mlflow_callbacks.config.tracing_config import TracingConfig


@attrs.frozen(kw_only=True)
class SavedConfig:
    """What became of a saved configuration.

    Attributes:
        config: What holds: the environment's options, else the saved ones, else the defaults.
        problems: What of the saved options does not hold, and why, for people to read.
    """

    config: TracingConfig
    problems: tuple[str, ...] = ()


def read_saved(values: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> SavedConfig:
    """Return the configuration that `TracingConfig.to_dict` gave when it was saved, as it holds here.

    A variable of an option wins over what was saved. Options that this version does not know are left out, those that
    it does not find, or finds wrong, have their defaults: a program that was saved can always be loaded.

    Args:
        values: Options by name.
        environ: The environment.
    """
    problems = list(_strangers(values))
    options: dict[str, Any] = {}
    for name, field in OPTIONS.items():
        said = environment.read(field, environ)
        if isinstance(said, Wrong):
            problems.append(f"{variable_of(name)} is wrong, so what was saved stands")
        if said is not None and not isinstance(said, Wrong):
            options[name] = said
        elif name in values:
            options |= _checked(name, values[name], problems)
    return SavedConfig(config=_config(options, environ, problems), problems=tuple(problems))


def _strangers(values: Mapping[str, Any]) -> Iterator[str]:
    unknown = [str(name) for name in values if name not in OPTIONS]
    if unknown:
        yield f"unknown options are left out: {', '.join(unknown)}"
    missing = [name for name in OPTIONS if name not in values]
    if missing:
        yield f"options that were not saved have their defaults: {', '.join(missing)}"


def _checked(name: str, value: Any, problems: list[str]) -> dict[str, Any]:
    try:
        return {name: OPTIONS[name].metadata["check"](value)}
    except (TypeError, ValueError) as error:
        problems.append(f"{name} has its default: {error}")
        return {}


def _config(options: dict[str, Any], environ: Mapping[str, str], problems: list[str]) -> TracingConfig:
    try:
        return TracingConfig(**options)
    except ValueError as error:  # two options that cannot stand beside each other: the environment's stays
        name = "engine" if environ.get(variable_of("tail_sampler"), "").strip() else "tail_sampler"
        problems.append(f"{name} has its default: {error}")
        return TracingConfig(**{option: value for option, value in options.items() if option != name})
