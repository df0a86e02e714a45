"""The callbacks that hear DSPy's calls now: where they stand, their engine, options and counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import dspy

from dspy_mlflow_callbacks.callbacks import TracingCallback
from dspy_mlflow_callbacks.config import OPTIONS, kept, variable_of
from dspy_mlflow_callbacks.health.findings import Finding, note, told
from dspy_mlflow_callbacks.stats import Stats

_NEARLY_FULL = 0.8


@attrs.frozen
class OptionInForce:
    """An option of a callback.

    Attributes:
        name: Its name.
        value: What holds, as JSON values; a callable is described.
        source: `argument`, `variable` or `default`.
        variable: The environment variable that says it.
    """

    name: str
    value: Any
    source: str
    variable: str


@attrs.frozen
class CallbackInForce:
    """A callback that hears calls.

    Attributes:
        text: What it is, and its options that are not at their defaults.
        place: Where it stands: `dspy.settings.callbacks`, `autolog()`, or on which program.
        engine: The engine of traces that begin now: `recorded` or `native`.
        why: Why it is that one.
        options: All of its options.
        stats: What it has counted.
    """

    text: str
    place: str
    engine: str
    why: str
    options: tuple[OptionInForce, ...]
    stats: Stats


def callbacks_in_force(program: Any = None) -> Iterator[tuple[TracingCallback, str]]:
    """Return the callbacks of this package that hear calls made here, each once, and where it stands.

    Args:
        program: A program whose own callbacks, and those of what it is made of, are looked at too.
    """
    seen: list[TracingCallback] = []
    for each, place in (*_of_settings(), *_of_program(program)):
        if isinstance(each, TracingCallback) and not any(each is other for other in seen):
            seen.append(each)
            yield each, place


def other_callbacks() -> list[Any]:
    """Return those in DSPy's settings that are not of this package."""
    return [each for each, _ in _of_settings() if not isinstance(each, TracingCallback)]


def _of_settings() -> list[tuple[Any, str]]:
    configured = dspy.settings.callbacks or []
    heard = dspy.settings.get("callbacks") or []
    everywhere = [each for each in heard if not any(each is other for other in configured)]
    return [
        *((each, "dspy.settings.callbacks") for each in configured),
        *((each, "autolog()") for each in everywhere),
    ]


def _of_program(program: Any) -> list[tuple[Any, str]]:
    if program is None:
        return []
    parts = [part for _, part in program.named_sub_modules()] if isinstance(program, dspy.Module) else [program]
    return [
        (each, f"{type(part).__name__}.callbacks") for part in parts for each in getattr(part, "callbacks", None) or ()
    ]


def look_at_callback(callback: TracingCallback, place: str) -> CallbackInForce:
    """Return what holds for one of them."""
    engine, why = callback.engine()
    return CallbackInForce(repr(callback), place, engine, why, tuple(_options(callback)), callback.stats())


def _options(callback: TracingCallback) -> Iterator[OptionInForce]:
    for name in OPTIONS:
        value = kept(name, getattr(callback.config, name))
        yield OptionInForce(name, value, callback.source_of(name), variable_of(name))


def of_callbacks(found: list[CallbackInForce]) -> Iterator[Finding]:
    """Return what is wrong with them."""
    if not found:
        yield Finding(
            "No callback of this package hears DSPy's calls: nothing is traced.",
            "dspy.configure(callbacks=[MlflowCallback()]), autolog(), or `dspy-mlflow run`",
        )
    for each in found:
        yield from _of_callback(each)


def _of_callback(found: CallbackInForce) -> Iterator[Finding]:
    options = {each.name: each for each in found.options}
    stats, enabled = found.stats, options["enabled"]
    yield from told(
        [
            (not enabled.value, Finding(f"{found.text} is switched off: it records nothing.", _on(enabled))),
            (
                options["sampling_ratio"].value == 0 and not options["sampling_rules"].value,
                Finding(
                    f"{found.text} keeps no trace: sampling_ratio is 0.", _change(options["sampling_ratio"], "1.0")
                ),
            ),
            (
                stats.lost,
                Finding(
                    f"{found.text} has lost {stats.lost} traces; the log under dspy_mlflow_callbacks says why.",
                    "mend the store, or where more end than it takes: sampling_ratio, or a larger max_queue_traces",
                ),
            ),
            (
                stats.failed,
                Finding(
                    f"{found.text} has failed {stats.failed} times; the log under dspy_mlflow_callbacks says of what.",
                    "mend the middleware, payload step or sampler that the log names",
                ),
            ),
            (
                stats.queued > _NEARLY_FULL * options["max_queue_traces"].value,
                note(
                    f"{stats.queued} traces wait to be stored, of {options['max_queue_traces'].value} that may.",
                    "a faster or a mended store, sampling_ratio, or a larger max_queue_traces",
                ),
            ),
        ]
    )


def _on(enabled: OptionInForce) -> str:
    return f"unset {enabled.variable}" if enabled.source == "variable" else "enabled=True"


def _change(option: OptionInForce, value: str) -> str:
    return f"export {option.variable}={value}" if option.source == "variable" else f"{option.name}={value}"
