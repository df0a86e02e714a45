"""MLflow runs of compiles and evaluations, as `mlflow.dspy.autolog(log_compiles=True, log_evals=True)` logs them."""

from __future__ import annotations

from dspy_mlflow_callbacks.runs.contents import RunContents
from dspy_mlflow_callbacks.runs.logger import RunLogger

__all__ = ["RunContents", "RunLogger"]
