"""The way of a call: event, middleware chain, description, span."""

from __future__ import annotations

import threading
import time
from typing import Any

import attrs

from dspy_mlflow_callbacks import dspy_internals
from dspy_mlflow_callbacks.describe import EVERYTHING, Capture, describe_end, describe_start, name_of
from dspy_mlflow_callbacks.describe.adapters import fallback_event
from dspy_mlflow_callbacks.events import CallEnd, CallKind, CallStart, SpanEnd
from dspy_mlflow_callbacks.lm_internals import LMWatch
from dspy_mlflow_callbacks.middleware import Chain, MiddlewareError
from dspy_mlflow_callbacks.payload import PayloadStepError, PayloadSteps
from dspy_mlflow_callbacks.spans.native import NativeEngine
from dspy_mlflow_callbacks.spans.open_spans import OPEN_SPANS, OpenCall, OpenSpans
from dspy_mlflow_callbacks.stats import Counters, Stats, WarnOnce

_ADAPTER_KINDS = (CallKind.ADAPTER_FORMAT, CallKind.ADAPTER_PARSE)
_ABANDONED = SpanEnd(error="The call had not ended when its trace ended.")


class Tracing:
    """Turns the starts and ends of calls into spans.

    What goes wrong in here costs the span, never the call: `callbacks` is the boundary that catches it.
    """

    def __init__(
        self,
        chain: Chain,
        *,
        capture: Capture = EVERYTHING,
        payload_steps: PayloadSteps | None = None,
        experiment: str | None = None,
        open_spans: OpenSpans = OPEN_SPANS,
    ) -> None:
        self.chain = chain
        self._capture = capture
        self._engine = NativeEngine(payload_steps or PayloadSteps(), experiment, on_loss=self.lost)
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
        elif isinstance(error, PayloadStepError):
            self._warn(id(error.step), f"A payload step failed; its payloads are withheld: {error}", error)
        else:
            self._warn(type(error), f"A span was lost or is incomplete: {error!r}", error)

    def start(
        self, kind: CallKind, call_id: str, instance: Any, inputs: dict[str, Any], *, governs: bool = False
    ) -> None:
        """Open the span of a call, or drop it.

        Args:
            kind: What is called.
            call_id: DSPy's id of the call.
            instance: The module, LM, … that is called.
            inputs: Its arguments by name.
            governs: Whether the callback is the instance's own: then the call is recorded also where another callback's
                middleware dropped what encloses it.
        """
        if call_id in self._open_spans:
            return  # this callback stands in two places, or another one of ours has the call
        parent_call_id = dspy_internals.active_call_id()
        parent = self._open_spans.get(parent_call_id)
        outside = None
        if parent is not None and parent.is_dropped:
            if not governs or parent.is_final or parent.owner is self:
                self._counters.add("dropped")
                self._open_spans.add(call_id, parent)
                return
            outside = self._engine.around(parent.span)
            parent = None
        if parent is not None and _repeats(kind, instance, parent):
            self._open_spans.add(call_id, parent)
            return
        above = parent.span if parent is not None else outside
        is_below_ours = parent is not None and above is not None
        call = CallStart(
            kind=kind,
            call_id=call_id,
            parent=parent.start if parent is not None else None,
            parent_call_id=parent_call_id,
            root_call_id=parent.start.root_call_id if parent is not None and parent.start is not None else call_id,
            instance=instance,
            inputs=inputs,
            namer=name_of,
            is_entry=parent is None or parent.owner is not self,
            is_sampled=is_below_ours or self._engine.decision(above),
            settings=dspy_internals.settings,
            locator=self._engine.experiment,
        )
        self._begin(call, parent, above)

    def end(self, call_id: str, outputs: Any, exception: BaseException | None) -> None:
        """Close the span of a call; an unknown call was never opened here."""
        known = self._open_spans.get(call_id)
        if known is None or known.owner not in (None, self):
            return
        call = self._open_spans.take(call_id)
        if call.call_id != call_id:
            return  # its parent stands for it
        if call.start is None:
            self._engine.close(call.span, SpanEnd())
            return
        if not call.is_hidden:
            self._finish(call, call.start, CallEnd(call_id=call_id, outputs=outputs, exception=exception))
        if call.start.kind is CallKind.ADAPTER_PARSE and exception is None:
            self._note_parsed(call.start)

    def _begin(self, call: CallStart, parent: OpenCall | None, above: Any) -> None:
        try:
            kept = None if call.is_sampled is False else self.chain.on_start(call)
            if kept is None:
                self._hold_dropped(call.call_id, self._engine.mute(above), is_final=call.is_sampled is False)
                return
            if kept.is_hidden:
                self._hold_hidden(kept, parent)
                return
            described = describe_start(kept, self._capture)
            span = self._engine.open(kept, described, above)
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
        held = OpenCall(call_id=call.call_id, start=call, span=span, owner=self)
        if call.is_root:
            held.cpu_started = _cpu_time()
        elif parent is not None:
            held.trace = parent.trace
            self._note_adapter(call, parent)
        self._open_spans.add(call.call_id, held)
        self._counters.add("started")

    def _hold_hidden(self, call: CallStart, parent: OpenCall | None) -> None:
        held = OpenCall(call_id=call.call_id, start=call, owner=self)
        if parent is not None:
            held.span, held.trace = parent.span, parent.trace
            self._note_adapter(call, parent)
        self._open_spans.add(call.call_id, held)

    def _hold_dropped(self, call_id: str, span: Any, *, is_final: bool = True) -> None:
        self._open_spans.add(call_id, OpenCall(call_id=call_id, span=span, owner=self, is_final=is_final))
        self._counters.add("dropped")

    def _note_adapter(self, call: CallStart, parent: OpenCall) -> None:
        """Say on the Predict's span when another adapter takes over before an answer was parsed."""
        if call.kind is CallKind.ADAPTER_FORMAT and not parent.is_hidden:
            adapter = type(call.instance).__name__
            if parent.unparsed is not None and parent.unparsed != adapter:
                self._engine.add_event(parent.span, fallback_event(parent.unparsed, adapter))
            parent.unparsed = adapter

    def _finish(self, call: OpenCall, start: CallStart, end: CallEnd) -> None:
        if start.is_root:
            self._close_abandoned(call.trace)
        described = _incomplete(end)
        try:
            described = describe_end(start, self.chain.on_end(end), self._capture)
        finally:
            self._engine.close(call.span, _with_cpu_time(described, call.cpu_started))
            self._counters.add("ended")

    def _note_parsed(self, start: CallStart) -> None:
        parent = self._open_spans.get(start.parent_call_id)
        if parent is not None and not parent.is_dropped:
            parent.unparsed = None

    def _close_abandoned(self, trace: dict[str, OpenCall]) -> None:
        """Close what is still open below a root that has ended: its end may never come."""
        for call in self._open_spans.abandon(trace):
            if not call.is_hidden:
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
