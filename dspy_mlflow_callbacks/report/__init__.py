"""Numbers over stored traces."""

from __future__ import annotations

from dspy_mlflow_callbacks.report.compiles import OptimizerRun, TrialResult, optimizer_runs
from dspy_mlflow_callbacks.report.reports import TraceReport, trace_report

__all__ = ["OptimizerRun", "TraceReport", "TrialResult", "optimizer_runs", "trace_report"]
