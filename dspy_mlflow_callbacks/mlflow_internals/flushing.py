"""What waits for us where users ask MLflow to store what it holds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from mlflow.tracing.processor.base_mlflow import _batch_processor_registry, _batch_processor_registry_lock


class FlushedWithMlflow:
    """Stands among the span processors that MLflow flushes.

    `mlflow.flush_trace_async_logging()` and `search_traces(flush=True)` ask each of them for what
    `BaseMlflowSpanProcessor` has: this has as much of it as they ask for.

    Args:
        flush: Given a number of seconds, waits until all is stored.
    """

    span_exporter = None  # MLflow flushes an exporter's queue too, if there is one
    _batch_delegate = None

    def __init__(self, flush: Callable[[float], bool]) -> None:
        self._flush = flush
        self._here = threading.local()
        self._pending_on_end_condition = threading.Condition()
        self._pending_on_end_count = 0
        self._join()

    def force_flush(self, timeout_millis: float = 30_000) -> bool:
        """Wait until all is stored."""
        return True if getattr(self._here, "is_left_out", False) else self._flush(timeout_millis / 1000)

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """Let MLflow's flushes from this thread not wait for it, where the caller has waited as long as it wants to."""
        self._here.is_left_out = True
        try:
            yield
        finally:
            self._here.is_left_out = False

    def shutdown(self) -> None:
        """Stay: MLflow has left all of them out before it shuts them down, and this one goes on."""
        self._join()

    def _join(self) -> None:
        with _batch_processor_registry_lock:
            _batch_processor_registry.add(cast("Any", self))
