"""Traces that another process began, while parts of them run here: MLflow stores no span of a trace that it forgot."""

from __future__ import annotations

import os
import threading
from typing import Any

import attrs

from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.spans.long_traces import LongTraces

_CHECKED_S = 4.0


@attrs.define(eq=False)
class _Joined:
    """A trace, and how many parts of it run here.

    Attributes:
        otel_id: OpenTelemetry's id of the trace.
        entry: MLflow's entry of it.
        is_ours: Whether it was put into MLflow's memory here, and is to leave it again.
        parts: How many parts run.
    """

    otel_id: int
    entry: Any
    is_ours: bool
    parts: int = 0

    def look(self) -> None:
        """Forget the trace if no part and no span of it runs any more; see `long_traces.LongTraces`."""
        REMOTE_TRACES.settle(self)


class RemoteTraces:
    """Keeps each trace in MLflow's memory as long as a part of it runs, and lets MLflow store the spans before it goes.

    Parts of one trace come and go in any number of threads and in any order.
    """

    def __init__(self) -> None:
        self._watch = LongTraces(self._left)
        self._begin()
        if hasattr(os, "register_at_fork"):  # pragma: no branch  (Windows has no fork)
            os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._joined: dict[int, _Joined] = {}

    def __len__(self) -> int:
        return len(self._joined)

    def join(self, otel_id: int, experiment_id: str | None) -> None:
        """Begin a part of a trace.

        Args:
            otel_id: OpenTelemetry's id of the trace.
            experiment_id: The experiment of the trace; None where it is not known.
        """
        entry = internals.trace_entry(otel_id)
        if entry is not None and not entry.is_remote_trace and not internals.has_open_spans(entry):
            internals.export_ended()  # it ended here, and leaves MLflow's memory any moment
        with self._lock:
            joined = self._joined.get(otel_id)
            if joined is None:
                joined = self._joined[otel_id] = _found_or_made(otel_id, experiment_id)
            elif not internals.is_in_memory(joined.entry):
                internals.put_back(otel_id, joined.entry)
                joined.is_ours = True
            joined.parts += 1

    def leave(self, otel_id: int) -> None:
        """End a part of a trace."""
        with self._lock:
            joined = self._joined.get(otel_id)
            if joined is None:  # begun before a fork
                return
            joined.parts -= 1
        self.settle(joined)

    def settle(self, joined: _Joined) -> None:
        """Let MLflow store what has ended of a trace of which no part runs here any more, and forget it."""
        if joined.parts:
            return
        spans = internals.spans_in_memory(joined.entry)
        if spans:
            internals.export_ended()
        with self._lock:
            if joined.parts or self._joined.get(joined.otel_id) is not joined:
                return
            is_over = spans == internals.spans_in_memory(joined.entry) and not internals.has_open_spans(joined.entry)
            if is_over or not joined.is_ours:
                del self._joined[joined.otel_id]
                if joined.is_ours:
                    internals.forget_trace(joined.otel_id, joined.entry)
                return
        self._watch.watch(_CHECKED_S)

    def _left(self) -> list[_Joined]:
        with self._lock:
            return [joined for joined in self._joined.values() if not joined.parts]


def _found_or_made(otel_id: int, experiment_id: str | None) -> _Joined:
    entry = internals.trace_entry(otel_id)
    if entry is None:
        return _Joined(otel_id, internals.remote_entry(otel_id, experiment_id), is_ours=True)
    return _Joined(otel_id, entry, is_ours=False)


REMOTE_TRACES = RemoteTraces()
