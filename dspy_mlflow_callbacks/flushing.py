"""Waiting until traces are stored."""

from __future__ import annotations

import mlflow

from dspy_mlflow_callbacks import checks
from dspy_mlflow_callbacks.export.exporter import EXPORTER, FLUSHED_WITH_MLFLOW

_seconds = checks.number("a number of seconds from 0 on", lambda value: value >= 0, mistyped=ValueError)


def flush(timeout: float = 30.0) -> bool:
    """Wait until all traces of this process that have ended are stored, those that MLflow's exporter stores too.

    `mlflow.flush_trace_async_logging()` and `mlflow.search_traces(flush=True)` do the same, without a time limit of
    yours.

    Args:
        timeout: The most seconds to wait for this package's own traces; MLflow has its own limits for its own.

    Returns:
        Whether nothing of this package's waits any more.

    Raises:
        ValueError: if *timeout* is negative or no number.

    Example:
        ```python
        program(question="why?")
        flush()
        print(mlflow.get_last_active_trace_id())
        ```
    """
    checks.named("timeout", _seconds, timeout)
    is_stored = EXPORTER.flush(timeout)
    with FLUSHED_WITH_MLFLOW.left_out():
        mlflow.flush_trace_async_logging()
    return is_stored or EXPORTER.flush(0.0)
