"""The way of a call: event, middleware chain, description, span."""

from __future__ import annotations

import threading
import time
from typing import Any

import attrs

from dspy_mlflow_callbacks import dspy_internals
from dspy_mlflow_callbacks.describe import describe_end, describe_start
from dspy_mlflow_callbacks.describe.adapters import fallback_event
from dspy_mlflow_callbacks.events import CallEnd, CallKind, CallStart, SpanEnd
from dspy_mlflow_callbacks.lm_internals import LMWatch
from dspy_mlflow_callbacks.middleware import Chain, MiddlewareError
from dspy_mlflow_callbacks.spans.native import NativeEngine
from dspy_mlflow_callbacks.spans.open_spans import DROPPED, OPEN_SPANS, OpenCall, OpenSpans
from dspy_mlflow_callbacks.stats import Counters, Stats, WarnOnce

_ADAPTER_KINDS = (CallKind.ADAPTER_FORMAT, CallKind.ADAPTER_PARSE)
_ABANDONED = SpanEnd(error="The call had not ended when its trace ended.")


class Tracing:
    """Turns the starts and ends of calls into spans.

    What goes wrong in here costs the span, never the call: `callbacks` is the boundary that catches it.
    """

    def __init__(self, chain: Chain, *, open_spans: OpenSpans = OPEN_SPANS) -> None:
        self.chain = chain
        self._engine = NativeEngine()
        self._open_spans = open_spans
        self._counters = Counters()
        self._warn = WarnOnce()

    def stats(self) -> Stats:
        """Return the counts of now."""
        return self._counters.stats(len(self._open_spans))

    def lost(self, error: Exception) -> None:
        """Count a span that *error* cost, and say so once."""
        self._counters.add("failed")
        if isinstance(error, MiddlewareError):
            self._warn(id(error.step), f"A middleware failed; its calls are not recorded: {error}", error)
        else:
            self._warn(type(error), f"A span was lost or is incomplete: {error!r}", error)

    def start(self, kind: CallKind, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Open the span of a call, or drop it."""
        if call_id in self._open_spans:
            return  # this callback stands in two places, or another one of ours has the call
        parent_call_id = dspy_internals.active_call_id()
        parent = self._open_spans.get(parent_call_id)
        if parent is not None and parent.start is None:
            self._counters.add("dropped")
            self._open_spans.add(call_id, DROPPED)
        elif parent is not None and _repeats(kind, instance, parent):
            self._open_spans.add(call_id, parent)
        else:
            above = parent.start if parent is not None else None
            call = CallStart(
                kind=kind,
                call_id=call_id,
                parent=above,
                parent_call_id=parent_call_id,
                root_call_id=above.root_call_id if above is not None else call_id,
                instance=instance,
                inputs=inputs,
            )
            self._begin(call, parent)

    def end(self, call_id: str, outputs: Any, exception: BaseException | None) -> None:
        """Close the span of a call; an unknown call was never opened here."""
        known = self._open_spans.get(call_id)
        if known is None or known.owner not in (None, self):
            return
        call = self._open_spans.take(call_id)
        if call.start is None:
            if call.span is not None:
                self._engine.close(call.span, SpanEnd())
        elif call.start.call_id == call_id:  # else its parent stands for it
            self._finish(call, call.start, CallEnd(call_id=call_id, outputs=outputs, exception=exception))

    def _begin(self, call: CallStart, parent: OpenCall | None) -> None:
        above = parent.span if parent is not None else None
        try:
            kept = self.chain.on_start(call)
            if kept is None:
                self._hold_dropped(call.call_id, self._engine.mute(above))
                return
            described = describe_start(kept)
            span = self._engine.open(kept.call_id, described, above, kept.tags, kept.metadata)
        except BaseException:
            if parent is not None:  # what runs below nests where the lost span would have stood
                self._open_spans.add(call.call_id, parent)
            raise
        if span.is_recording:
            watch = LMWatch(kept.call_id) if kept.kind is CallKind.LM else None
            self._hold(attrs.evolve(kept, name=described.name, watch=watch), span, parent)
        else:
            self._hold_dropped(call.call_id, span)

    def _hold(self, call: CallStart, span: Any, parent: OpenCall | None) -> None:
        held = OpenCall(start=call, span=span, owner=self)
        if parent is None:
            held.cpu_started = _cpu_time()
        else:
            held.trace = parent.trace
            self._note_adapter(call, parent)
        self._open_spans.add(call.call_id, held)
        self._counters.add("started")

    def _hold_dropped(self, call_id: str, span: Any) -> None:
        self._open_spans.add(call_id, OpenCall(span=span, owner=self))
        self._counters.add("dropped")

    def _note_adapter(self, call: CallStart, parent: OpenCall) -> None:
        """Say on the Predict's span when another adapter takes over before an answer was parsed."""
        if call.kind is CallKind.ADAPTER_FORMAT:
            adapter = type(call.instance).__name__
            if parent.unparsed is not None and parent.unparsed != adapter:
                self._engine.add_event(parent.span, fallback_event(parent.unparsed, adapter))
            parent.unparsed = adapter

    def _finish(self, call: OpenCall, start: CallStart, end: CallEnd) -> None:
        if start.is_root:
            self._close_abandoned(call.trace)
        described = _incomplete(end)
        try:
            described = describe_end(start, self.chain.on_end(end))
        finally:
            self._engine.close(call.span, _with_cpu_time(described, call.cpu_started))
            self._counters.add("ended")
        if start.kind is CallKind.ADAPTER_PARSE and end.exception is None:
            self._note_parsed(start)

    def _note_parsed(self, start: CallStart) -> None:
        parent = self._open_spans.get(start.parent_call_id)
        if parent is not None and not parent.is_dropped:
            parent.unparsed = None

    def _close_abandoned(self, trace: dict[str, OpenCall]) -> None:
        """Close what is still open below a root that has ended: its end may never come."""
        for call in self._open_spans.abandon(trace):
            self._engine.close(call.span, _ABANDONED)
            self._counters.add("ended")


def _repeats(kind: CallKind, instance: Any, parent: OpenCall) -> bool:
    """Return whether an adapter's method calls its own base class's: DSPy then emits the event twice."""
    start = parent.start
    return kind in _ADAPTER_KINDS and start is not None and start.kind is kind and start.instance is instance


def _incomplete(end: CallEnd) -> SpanEnd:
    """Return the end of a span whose end cannot be described: the status is right, the content is withheld."""
    error = None if end.exception is None else type(end.exception).__name__
    return SpanEnd(attributes={"dspy_mlflow_callbacks.incomplete": "true"}, error=error)


def _cpu_time() -> tuple[int, int]:
    return threading.get_ident(), time.thread_time_ns()


def _with_cpu_time(end: SpanEnd, started: tuple[int, int] | None) -> SpanEnd:
    """Add the CPU seconds that the calling thread spent, where the call ended in the thread it started in."""
    if started is None or started[0] != threading.get_ident():
        return end
    seconds = (time.thread_time_ns() - started[1]) / 1e9
    return attrs.evolve(end, attributes={**end.attributes, "dspy.cpu_time_s": repr(seconds)})
