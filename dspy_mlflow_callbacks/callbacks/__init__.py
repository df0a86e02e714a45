"""The callback classes that stand in `dspy.configure(callbacks=[...])` or on a program."""

from dspy_mlflow_callbacks.callbacks.base import TracingCallback
from dspy_mlflow_callbacks.callbacks.kinds import (
    AdapterCallback,
    CompileCallback,
    EvaluateCallback,
    InterpreterCallback,
    LMCallback,
    MlflowCallback,
    ModuleCallback,
    ToolCallback,
)

__all__ = [
    "AdapterCallback",
    "CompileCallback",
    "EvaluateCallback",
    "InterpreterCallback",
    "LMCallback",
    "MlflowCallback",
    "ModuleCallback",
    "ToolCallback",
    "TracingCallback",
]
