"""Numbers over stored traces."""

from __future__ import annotations

from dspy_mlflow_callbacks.report.optimizer_runs import OptimizerRun, TrialResult, optimizer_runs

__all__ = ["OptimizerRun", "TrialResult", "optimizer_runs"]
