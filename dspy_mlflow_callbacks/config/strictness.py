"""What of one process's configuration holds in another one too, and only ever narrows what that one records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from dspy_mlflow_callbacks.config.option_table import OPTIONS
from dspy_mlflow_callbacks.config.options import plain
from dspy_mlflow_callbacks.config.tracing_config import TracingConfig
from dspy_mlflow_callbacks.events import LEVELS


def _both(here: bool, there: bool) -> bool:  # noqa: FBT001  (values, not switches)
    return here and there


def _either(here: bool, there: bool) -> bool:  # noqa: FBT001  (values, not switches)
    return here or there


def _all(here: tuple[str, ...], there: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*here, *there)))


def _shorter(here: int | None, there: int | None) -> int | None:
    return min((each for each in (here, there) if each is not None), default=None)


def _higher(here: str, there: str) -> str:
    return max(here, there, key=lambda level: LEVELS.index(level.upper()))


_STRICTER: dict[str, Callable[[Any, Any], Any]] = {
    "level": _higher,
    "exclude": _all,
    "capture_inputs": _both,
    "capture_outputs": _both,
    "capture_messages": _both,
    "max_payload_chars": _shorter,
    "redact": _either,
    "redact_keys": _all,
    "redact_patterns": _all,
    "redact_fields": _all,
}

NARROWING = tuple(_STRICTER)
"""The options that travel with a trace: those that can only take away from what is recorded."""


def narrowing(config: TracingConfig) -> dict[str, Any]:
    """Return the options that travel, those that are not at their defaults, as JSON values by name."""
    return {name: plain(name, getattr(config, name)) for name in NARROWING if name in config.changed()}


def stricter(config: TracingConfig, said: Mapping[str, Any]) -> TracingConfig:
    """Return *config* with what another process said of the same trace, as far as that narrows it.

    Args:
        config: The configuration here.
        said: What `narrowing` returned there; what is unknown or wrong of it is left out.
    """
    there = dict(_checked(said))
    return config.with_options(**{name: _STRICTER[name](getattr(config, name), value) for name, value in there.items()})


def _checked(said: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name in NARROWING:
        if name in said:
            try:
                yield name, OPTIONS[name].metadata["check"](said[name])
            except Exception:  # noqa: BLE001, S112  (another process's, perhaps anybody's: never an error here)
                continue
