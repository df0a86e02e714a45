"""One complete, cheap, readable MLflow trace for every execution of a DSPy program.

dspy.configure(callbacks=[MlflowCallback()])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from dspy_mlflow_callbacks.events import CallEnd, CallKind, CallStart
    from dspy_mlflow_callbacks.middleware import Middleware, RatioSampler, TagInjector
    from dspy_mlflow_callbacks.stats import Stats

    __version__: str

__all__ = [
    "AdapterCallback",
    "CallEnd",
    "CallKind",
    "CallStart",
    "CompileCallback",
    "EvaluateCallback",
    "InterpreterCallback",
    "LMCallback",
    "Middleware",
    "MlflowCallback",
    "ModuleCallback",
    "RatioSampler",
    "Stats",
    "TagInjector",
    "ToolCallback",
]

# dspy and mlflow take seconds to import: a name brings them in only when it is used.
_ROOMS = {
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
    "events": ("CallEnd", "CallKind", "CallStart"),
    "middleware": ("Middleware", "RatioSampler", "TagInjector"),
    "stats": ("Stats",),
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
