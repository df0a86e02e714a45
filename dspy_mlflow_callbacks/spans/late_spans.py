"""Spans of the user's own that go on when the trace of a program has ended: MLflow stores them as they end."""

from __future__ import annotations

from typing import Any

from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.spans.long_traces import LongTraces

_CHECKED_S = 4.0


class LateSpans:
    """What keeps a trace in MLflow's memory after its end, so that MLflow can store what ends later.

    Args:
        otel_id: OpenTelemetry's id of the trace.
        entry: MLflow's entry of the trace.
        processor: MLflow's span processor, which may have spans that it has not stored yet.
    """

    def __init__(self, otel_id: int, entry: Any, processor: Any) -> None:
        self._otel_id = otel_id
        self._entry = entry
        self._processor = processor

    def wait(self) -> None:
        """Have a thread look for the end of them."""
        _WAITING.add(self)
        _WATCH.watch(_CHECKED_S)

    def look(self) -> None:
        """Let MLflow forget the trace if all its spans have ended: a trace in memory hides the stored one."""
        if internals.is_in_memory(self._entry) and internals.has_open_spans(self._entry):
            return
        _WAITING.discard(self)
        self._processor.force_flush()
        internals.forget_trace(self._otel_id, self._entry)


_WAITING: set[LateSpans] = set()
_WATCH = LongTraces(lambda: list(_WAITING))
