"""Calls whose end never comes: a trace in which nothing happens any more is given up after a while."""

from __future__ import annotations

import time
from collections.abc import Iterable

from dspy_mlflow_callbacks.spans.long_traces import Long, LongTraces
from dspy_mlflow_callbacks.spans.open_spans import DROPPED, OpenSpans, TraceCalls


class Silence:
    """Gives up traces in which no call has started or ended for `max_silent_s` of who began them.

    A thread that hangs, or a coroutine that nobody goes on with, would hold its calls, and what is stored only when
    they end, for ever.

    Args:
        open_spans: The calls of the process that are open.
    """

    def __init__(self, open_spans: OpenSpans) -> None:
        self._open_spans = open_spans
        self._dropped = _DroppedCalls(open_spans)
        self.watch = LongTraces(self._open_traces).watch
        """Look often enough for a limit of so many seconds."""

    def _open_traces(self) -> Iterable[Long]:
        calls = [call for call in self._open_spans.calls() if not call.is_dropped and not call.is_inherited]
        traces = {id(call.trace): call.trace for call in calls}
        return [*map(_QuietTrace, traces.values()), self._dropped]


class _QuietTrace:
    def __init__(self, trace: TraceCalls) -> None:
        self._trace = trace

    def look(self) -> None:
        trace, now = self._trace, time.monotonic()
        if trace.is_touched:
            trace.is_touched, trace.quiet_since = False, now
        elif now - trace.quiet_since >= trace.owner.max_silent_s:
            trace.owner.give_up(trace)


class _DroppedCalls:
    """Dropped calls, of which nothing is heard but their end: they are given up when they are old."""

    def __init__(self, open_spans: OpenSpans) -> None:
        self._open_spans = open_spans
        self._seen: dict[str, float] = {}

    def look(self) -> None:
        now = time.monotonic()
        calls = {each.call_id: each for each in self._open_spans.calls() if each.is_dropped and each is not DROPPED}
        self._seen = {call_id: self._seen.get(call_id, now) for call_id in calls if call_id is not None}
        for call_id, seen in self._seen.items():
            call = calls[call_id]
            if now - seen >= call.owner.max_silent_s:
                call.owner.give_up_dropped(call)
