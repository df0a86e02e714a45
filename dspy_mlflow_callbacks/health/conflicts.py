"""What stands beside this package, in MLflow, in DSPy's settings and in the environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from dspy_mlflow_callbacks import autostart, mlflow_internals
from dspy_mlflow_callbacks.config import variable_of, wrong_variables
from dspy_mlflow_callbacks.health.findings import Finding, note, told
from dspy_mlflow_callbacks.peers import OPENINFERENCE

_AUTOLOG = "mlflow.dspy."
_ASYNC = "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING"

# Tracers of DSPy whose callbacks stand in its settings, by the first part of their modules.
_TRACERS = ("agentops", "arize", "langfuse", "langtrace_python_sdk", "langwatch", "logfire", "opik", "phoenix", "weave")


def of_variables(environ: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Return what is wrong with the variables of this package."""
    for message in wrong_variables(environ):
        name = message.removeprefix("The environment variable ").partition("=")[0].partition(" ")[0]
        yield Finding(message, f"unset {name}, or set it to what is allowed")
    said = environ.get(autostart.VARIABLE, "").strip().lower()
    if said and said not in (*autostart.TRUE, *autostart.FALSE):
        yield Finding(f"{autostart.VARIABLE}={said!r} is ignored: programs are not traced.", f"{autostart.VARIABLE}=1")
    if environ.get(variable_of("engine"), "").strip() == "recorded":
        reason = mlflow_internals.why_not_recorded()
        if reason is not None:
            what = f"{variable_of('engine')}='recorded' is ignored: {reason}."
            yield Finding(what, f"unset {variable_of('engine')}")


def of_mlflow(environ: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Return what in MLflow's settings changes what is recorded."""
    ratio = environ.get("MLFLOW_TRACE_SAMPLING_RATIO", "").strip()
    yield from told(
        [
            (
                mlflow_internals.is_tracing_off(),
                Finding("MLflow's tracing is switched off: nothing is recorded.", "mlflow.tracing.enable()"),
            ),
            (
                ratio and _number(ratio) == 0,
                Finding("MLFLOW_TRACE_SAMPLING_RATIO is 0: no trace is kept.", "unset MLFLOW_TRACE_SAMPLING_RATIO"),
            ),
            (
                ratio and 0 < _number(ratio) < 1,
                note(
                    f"MLFLOW_TRACE_SAMPLING_RATIO={ratio} drops traces too, of those that sampling_ratio keeps.",
                    f"unset MLFLOW_TRACE_SAMPLING_RATIO, and say {variable_of('sampling_ratio')}={ratio}",
                ),
            ),
            (
                mlflow_internals.has_span_processors(),
                note(
                    "MLflow has span processors, so that the native engine serves, which costs more.",
                    "mlflow.tracing.configure(span_processors=[])",
                ),
            ),
            (
                environ.get(_ASYNC, "").strip().lower() in ("false", "0"),
                note(
                    "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING is false: each call waits until its trace is stored.",
                    "unset MLFLOW_ENABLE_ASYNC_TRACE_LOGGING",
                ),
            ),
        ]
    )


def of_tracers(others: list[Any]) -> Iterator[Finding]:
    """Return which other tracers hear DSPy's calls.

    Args:
        others: The callbacks in DSPy's settings that are not of this package.
    """
    modules = {type(each).__module__: type(each).__qualname__ for each in others}
    yield from told(
        [
            (
                any(module.startswith(_AUTOLOG) for module in modules),
                Finding(
                    "mlflow.dspy.autolog() is on too: this package records, and MLflow's callback stands aside.",
                    "mlflow.dspy.autolog(disable=True)",
                ),
            ),
            (
                _is_openinference_on(),
                note(
                    "OpenInference instruments DSPy: where MLflow gets its spans, it records in place of this package.",
                    "leave out DSPyInstrumentor().instrument()",
                ),
            ),
        ]
    )
    for module, name in modules.items():
        if module.partition(".")[0] in _TRACERS:
            yield note(f"{module}.{name} traces DSPy's calls too.", "take it out of dspy.configure(callbacks=[...])")


def _is_openinference_on() -> bool:
    module = sys.modules.get(OPENINFERENCE)
    return module is not None and bool(module.DSPyInstrumentor().is_instrumented_by_opentelemetry)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 1.0  # MLflow says itself what is wrong with it
