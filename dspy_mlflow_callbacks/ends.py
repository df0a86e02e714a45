"""The ends of calls: what is said of them, and the spans that close, those whose end never comes among them."""

from __future__ import annotations

import threading
import time
from typing import Any

from dspy_mlflow_callbacks.describe import Capture, describe_end
from dspy_mlflow_callbacks.events import (
    EMPTY,
    NOT_ENDED,
    CallEnd,
    CallKind,
    CallStart,
    SpanEnd,
    new_call_end,
    new_span_end,
)
from dspy_mlflow_callbacks.middleware import Chain
from dspy_mlflow_callbacks.spans.open_spans import DROPPED, OpenCall, OpenSpans, TraceCalls
from dspy_mlflow_callbacks.stats import Counters
from dspy_mlflow_callbacks.summaries import count, count_attempt

_NOTHING = SpanEnd()
_ABANDONED = SpanEnd(error=NOT_ENDED)


class Ends:
    """Closes the spans of calls.

    Args:
        owner: Who opened them.
        chain: The middleware.
        counters: Where calls are counted.
        capture: Which content is recorded.
        open_spans: The calls of the process that are open.
    """

    def __init__(
        self, owner: object, chain: Chain, counters: Counters, capture: Capture, open_spans: OpenSpans
    ) -> None:
        self._owner = owner
        self._chain = chain
        self._counters = counters
        self._capture = capture
        self._open_spans = open_spans

    def end(self, call_id: str, outputs: Any, exception: BaseException | None) -> None:
        """Close the span of a call; an unknown call was never opened here."""
        known = self._open_spans.get(call_id)
        if known is None:
            return
        if known.call_id != call_id:
            self._open_spans.forget(call_id, None)  # a call around it stands for it, perhaps another callback's
            return
        if known.owner is not self._owner:
            return
        call = self._open_spans.take(call_id)
        if call is DROPPED:
            return  # another thread has given it up just now
        if call.is_inherited:
            if not call.is_hidden:
                call.span.detach()
        elif call.start is None:
            call.span.close(_NOTHING)
        else:
            self._end_recorded(call, call.start, outputs, exception)

    def _end_recorded(self, call: OpenCall, start: CallStart, outputs: Any, exception: BaseException | None) -> None:
        try:
            if call.part is not None:
                _summarize(call, outputs, exception)
            if start.attempt is not None:
                count_attempt(start, outputs, exception)
        finally:
            if not call.is_hidden:
                said = EMPTY if call.at_end is None else call.at_end()
                end = new_call_end(call_id=start.call_id, outputs=outputs, exception=exception, attributes=said)
                self._finish(call, start, end)
        if start.kind is CallKind.ADAPTER_PARSE and exception is None:
            self._note_parsed(start)

    def _finish(self, call: OpenCall, start: CallStart, end: CallEnd) -> None:
        if call.cpu_started is not None or call.is_carried:
            self.abandon(call.trace, _ABANDONED)
        described = None
        try:
            described = describe_end(start, self._chain.on_end(end), self._capture)
        finally:
            described = _incomplete(end) if described is None else described
            call.span.close(described if call.cpu_started is None else _with_cpu_time(described, call.cpu_started))
            self._counters.ended()

    def _note_parsed(self, start: CallStart) -> None:
        parent = self._open_spans.get(start.parent_call_id)
        if parent is not None and not parent.is_dropped:
            parent.unparsed = None

    def abandon(self, trace: TraceCalls, end: SpanEnd) -> None:
        """Close what is still open of a trace."""
        for call in self._open_spans.abandon(trace):
            if not call.is_hidden:
                self._counters.abandoned()
                call.span.close(end)
                self._counters.ended()


def _summarize(call: OpenCall, outputs: Any, exception: BaseException | None) -> None:
    """Tell the compile or trial that *call* is, or is part of, that it has ended."""
    if call.on_end is not None:
        call.on_end(exception)
    count(call, outputs, exception)


def _incomplete(end: CallEnd) -> SpanEnd:
    """Return the end of a span whose end cannot be described: the status is right, the content is withheld."""
    error = None if end.exception is None else type(end.exception).__name__
    return SpanEnd(attributes={"dspy_mlflow_callbacks.incomplete": "true"}, error=error)


def cpu_time() -> tuple[int, int]:
    """Return the calling thread, and the nanoseconds of CPU that it has spent."""
    return threading.get_ident(), time.thread_time_ns()


def _with_cpu_time(end: SpanEnd, started: tuple[int, int]) -> SpanEnd:
    """Add the CPU seconds that the calling thread spent, where the call ended in the thread it started in."""
    if started[0] != threading.get_ident():
        return end
    seconds = (time.thread_time_ns() - started[1]) / 1e9
    attributes = {**end.attributes, "dspy.cpu_time_s": repr(seconds)}
    return new_span_end(
        outputs=end.outputs,
        attributes=attributes,
        later=end.later,
        events=end.events,
        error=end.error,
        feedback=end.feedback,
    )
