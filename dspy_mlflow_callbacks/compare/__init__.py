"""Comparing two traces, or two versions of a program by their traces."""

from dspy_mlflow_callbacks.compare.checks import CheckFailedError, Checks, FailedCheck
from dspy_mlflow_callbacks.compare.traces import TraceComparison, compare_traces
from dspy_mlflow_callbacks.compare.version_comparison import VersionComparison
from dspy_mlflow_callbacks.compare.versions import compare_versions

__all__ = [
    "CheckFailedError",
    "Checks",
    "FailedCheck",
    "TraceComparison",
    "VersionComparison",
    "compare_traces",
    "compare_versions",
]
