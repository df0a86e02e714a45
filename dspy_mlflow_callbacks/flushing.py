"""Waiting until traces are stored."""

from __future__ import annotations

import time

import mlflow

from dspy_mlflow_callbacks.export.exporter import EXPORTER


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
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout >= 0:
        message = f"timeout must be a number of seconds from 0 on, got {timeout!r}"
        raise ValueError(message)
    began = time.monotonic()
    is_stored = EXPORTER.flush(timeout)
    mlflow.flush_trace_async_logging()
    return EXPORTER.flush(max(0.0, timeout - (time.monotonic() - began))) if not is_stored else True
