"""One complete, cheap, readable MLflow trace for every execution of a DSPy program.

dspy.configure(callbacks=[MlflowCallback()])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dspy_mlflow_callbacks.autologging import autolog
    from dspy_mlflow_callbacks.callbacks import (
        AdapterCallback,
        CompileCallback,
        EvaluateCallback,
        InterpreterCallback,
        LMCallback,
        MlflowCallback,
        ModuleCallback,
        ToolCallback,
    )
    from dspy_mlflow_callbacks.compare import (
        CheckFailedError,
        TraceComparison,
        VersionComparison,
        compare_traces,
        compare_versions,
    )
    from dspy_mlflow_callbacks.config import TracingConfig
    from dspy_mlflow_callbacks.describe import program_fingerprint
    from dspy_mlflow_callbacks.distributed import (
        TraceASGIMiddleware,
        TracedThreadPoolExecutor,
        TraceWSGIMiddleware,
        continue_trace,
        inject_headers,
        propagate,
        trace_client,
    )
    from dspy_mlflow_callbacks.events import CallEnd, CallKind, CallStart, EvaluatedExample
    from dspy_mlflow_callbacks.executor import Counts, InputTimeoutError, Result, Results, run
    from dspy_mlflow_callbacks.flushing import flush
    from dspy_mlflow_callbacks.health import Diagnosis, Finding, diagnose
    from dspy_mlflow_callbacks.middleware import (
        KindFilter,
        LevelFilter,
        Middleware,
        NameFilter,
        RatioSampler,
        RuleSampler,
        SamplingRule,
        TagInjector,
    )
    from dspy_mlflow_callbacks.payload import Payload, PayloadLimit, PayloadStep, Redactor
    from dspy_mlflow_callbacks.programs import (
        attach,
        detach,
        load_model,
        load_program,
        log_model,
        save_model,
        save_program,
    )
    from dspy_mlflow_callbacks.replaying import Divergence, Replay, ReplayError, Timing, replay
    from dspy_mlflow_callbacks.report import OptimizerRun, TraceReport, TrialResult, optimizer_runs, trace_report
    from dspy_mlflow_callbacks.scopes import suppress_tracing, trace_context
    from dspy_mlflow_callbacks.stats import Stats
    from dspy_mlflow_callbacks.tail_sampling import EndedTrace, TailSampler

    __version__: str

__all__ = [
    "AdapterCallback",
    "CallEnd",
    "CallKind",
    "CallStart",
    "CheckFailedError",
    "CompileCallback",
    "Counts",
    "Diagnosis",
    "Divergence",
    "EndedTrace",
    "EvaluateCallback",
    "EvaluatedExample",
    "Finding",
    "InputTimeoutError",
    "InterpreterCallback",
    "KindFilter",
    "LMCallback",
    "LevelFilter",
    "Middleware",
    "MlflowCallback",
    "ModuleCallback",
    "NameFilter",
    "OptimizerRun",
    "Payload",
    "PayloadLimit",
    "PayloadStep",
    "RatioSampler",
    "Redactor",
    "Replay",
    "ReplayError",
    "Result",
    "Results",
    "RuleSampler",
    "SamplingRule",
    "Stats",
    "TagInjector",
    "TailSampler",
    "Timing",
    "ToolCallback",
    "TraceASGIMiddleware",
    "TraceComparison",
    "TraceReport",
    "TraceWSGIMiddleware",
    "TracedThreadPoolExecutor",
    "TracingConfig",
    "TrialResult",
    "VersionComparison",
    "attach",
    "autolog",
    "compare_traces",
    "compare_versions",
    "continue_trace",
    "detach",
    "diagnose",
    "flush",
    "inject_headers",
    "load_model",
    "load_program",
    "log_model",
    "optimizer_runs",
    "program_fingerprint",
    "propagate",
    "replay",
    "run",
    "save_model",
    "save_program",
    "suppress_tracing",
    "trace_client",
    "trace_context",
    "trace_report",
]

# dspy and mlflow take seconds to import: a name brings them in only when it is used.
_ROOMS = {
    "autologging": ("autolog",),
    "callbacks": (
        "AdapterCallback",
        "CompileCallback",
        "EvaluateCallback",
        "InterpreterCallback",
        "LMCallback",
        "MlflowCallback",
        "ModuleCallback",
        "ToolCallback",
    ),
    "compare": ("CheckFailedError", "TraceComparison", "VersionComparison", "compare_traces", "compare_versions"),
    "config": ("TracingConfig",),
    "distributed": (
        "TraceASGIMiddleware",
        "TraceWSGIMiddleware",
        "TracedThreadPoolExecutor",
        "continue_trace",
        "inject_headers",
        "propagate",
        "trace_client",
    ),
    "describe": ("program_fingerprint",),
    "events": ("CallEnd", "CallKind", "CallStart", "EvaluatedExample"),
    "executor": ("Counts", "InputTimeoutError", "Result", "Results", "run"),
    "flushing": ("flush",),
    "health": ("Diagnosis", "Finding", "diagnose"),
    "middleware": (
        "KindFilter",
        "LevelFilter",
        "Middleware",
        "NameFilter",
        "RatioSampler",
        "RuleSampler",
        "SamplingRule",
        "TagInjector",
    ),
    "payload": ("Payload", "PayloadLimit", "PayloadStep", "Redactor"),
    "replaying": ("Divergence", "Replay", "ReplayError", "Timing", "replay"),
    "programs": (
        "attach",
        "detach",
        "load_model",
        "load_program",
        "log_model",
        "save_model",
        "save_program",
    ),
    "report": ("OptimizerRun", "TraceReport", "TrialResult", "optimizer_runs", "trace_report"),
    "scopes": ("suppress_tracing", "trace_context"),
    "stats": ("Stats",),
    "tail_sampling": ("EndedTrace", "TailSampler"),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415  (only who asks pays for it)

        return version("dspy-mlflow-callbacks")
    if name in _ROOM_OF:
        return getattr(importlib.import_module(f"{__name__}.{_ROOM_OF[name]}"), name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
