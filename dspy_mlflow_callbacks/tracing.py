"""The way of a call: event, middleware chain, description, span."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import attrs

from dspy_mlflow_callbacks import dspy_internals
from dspy_mlflow_callbacks.describe import EVERYTHING, Capture, describe_start
from dspy_mlflow_callbacks.describe.adapters import fallback_event
from dspy_mlflow_callbacks.ends import Ends, cpu_time
from dspy_mlflow_callbacks.events import (
    CallKind,
    CallStart,
    EvaluatedExample,
    SpanEnd,
)
from dspy_mlflow_callbacks.export.exporter import EXPORTER
from dspy_mlflow_callbacks.forks import FORKS
from dspy_mlflow_callbacks.middleware import Chain
from dspy_mlflow_callbacks.optimizing import Place
from dspy_mlflow_callbacks.spans.engine import NEW_TRACE, Engine
from dspy_mlflow_callbacks.spans.experiments import ExperimentError
from dspy_mlflow_callbacks.spans.open_spans import NO_CALLS, OPEN_SPANS, OpenCall, OpenSpans, TraceCalls
from dspy_mlflow_callbacks.spans.silence import Silence
from dspy_mlflow_callbacks.starts import Starts, root_call_id
from dspy_mlflow_callbacks.stats import Counters, Stats
from dspy_mlflow_callbacks.summaries import Summaries

_ADAPTER_KINDS = frozenset({CallKind.ADAPTER_FORMAT, CallKind.ADAPTER_PARSE})
_SUMMED_UP = frozenset({Place.CANDIDATE, Place.WATCHED})
_NOTHING = SpanEnd()
_SILENCE = Silence(OPEN_SPANS)


class Tracing:
    """Turns the starts and ends of calls into spans.

    What goes wrong in here costs the span, never the call: `callbacks` is the boundary that catches it.

    Args:
        chain: The middleware.
        engine: Opens spans.
        counters: Where calls are counted.
        lost: Told of each error that cost a span.
        capture: Which content is recorded.
        summarizes: Whether compiles are recorded in summary.
        evaluate: How the examples of evaluations are recorded: the option of this name.
        max_silent_s: After how many seconds without a start or an end a trace is given up.
        open_spans: The calls of the process that are open.

    Attributes:
        end: Closes the span of a call: `Ends.end`.
    """

    def __init__(
        self,
        chain: Chain,
        engine: Engine,
        counters: Counters,
        lost: Callable[[Exception], object],
        *,
        capture: Capture = EVERYTHING,
        summarizes: bool = False,
        evaluate: str = "linked",
        max_silent_s: float = float("inf"),
        open_spans: OpenSpans = OPEN_SPANS,
    ) -> None:
        self.max_silent_s = max_silent_s
        self.chain = chain
        self.lost = lost
        self.evaluate = evaluate
        self._engine = engine
        self._counters = counters
        self._capture = capture
        self._open_spans = open_spans
        self._starts = Starts(self, engine, summarizes=summarizes)
        self._ends = Ends(self, chain, counters, capture, open_spans)
        self.end = self._ends.end
        self._summaries = Summaries(self, open_spans, self._open_trial, self.end)

    def experiment(self) -> tuple[str, ...]:
        """Return the id and the name of the experiment of traces that begin here; empty if the store does not say."""
        return self._engine.experiment()

    def stats(self) -> Stats:
        """Return the counts of now."""
        return self._counters.stats(open=len(self._open_spans), queued=EXPORTER.queued, bytes=EXPORTER.queued_bytes)

    def engine(self) -> tuple[str, str]:
        """Return the engine of traces that begin now, and why it is that one."""
        return self._engine.choice()

    def start(
        self, kind: CallKind, call_id: str, instance: Any, inputs: dict[str, Any], *, governs: bool = False
    ) -> bool:
        """Open the span of a call, or drop it.

        Args:
            kind: What is called.
            call_id: DSPy's id of the call.
            instance: The module, LM, … that is called.
            inputs: Its arguments by name.
            governs: Whether the callback is the instance's own: then the call is recorded also where another callback's
                middleware dropped what encloses it.

        Returns:
            Whether nothing of what the call makes is recorded, but by callbacks that stand on a part of it.
        """
        if self._open_spans.get(call_id) is not None:
            return False  # this callback stands in two places, or another one of ours has the call
        around = self._enclosing()
        if around is not None and around.is_dropped and not self._begins_again(around, governs=governs):
            self._open_spans.stand_for(call_id, around)
            return not around.is_suppressed
        parent, above = self._place(around)
        if self._stands_aside(kind, call_id, instance, parent, above=above):
            return False
        place = Place.SPAN
        if parent is not None and parent.is_summarized:
            place = self._summaries.place_of(kind, instance, parent)
            if place in _SUMMED_UP:
                return self._sum_up(place, kind, call_id, instance, inputs=inputs, around=parent)
        is_sampled = self._decision(parent, above)
        if is_sampled is False or (is_sampled is None and self.chain.drops(root_call_id(call_id, parent))):
            muted = self._engine.mute(above, call_id)
            self._hold_dropped(call_id, muted, is_final=is_sampled is False, around=parent)
            return True
        try:
            kind = CallKind.TRIAL if place is Place.TRIAL else kind
            call = self._starts.call(kind, call_id, instance, inputs, parent=parent, above=above, is_sampled=is_sampled)
            return self._begin(call, parent, above)
        except BaseException:
            self._keep_lineage(call_id, parent)
            raise

    def _stands_aside(
        self, kind: CallKind, call_id: str, instance: Any, parent: OpenCall | None, *, above: Any
    ) -> bool:
        """Hold a call that gets no span because its adapter's own call has one, or a scope switched tracing off."""
        if kind in _ADAPTER_KINDS and parent is not None and _repeats(kind, instance, parent):
            self._open_spans.stand_for(call_id, parent)
            return True
        is_suppressed: bool = self._engine.is_suppressed()
        if is_suppressed:
            self._hold_dropped(call_id, self._engine.mute(above, call_id), is_suppressed=True)
        return is_suppressed

    def start_example(
        self, call_id: str, example: EvaluatedExample, evaluation: OpenCall, *, is_linked: bool
    ) -> str | None:
        """Open the span of an example of an evaluation that this opened; return the id of the trace it is in, if any.

        Args:
            call_id: The id of the call.
            example: The example.
            evaluation: The evaluation.
            is_linked: Whether the example is a trace of its own.
        """
        if self._engine.is_suppressed():
            self._hold_dropped(call_id, self._engine.mute(evaluation.span, call_id), is_suppressed=True)
            return None
        try:
            call = self._starts.example(call_id, example, evaluation, is_linked=is_linked)
            self._begin(call, evaluation, NEW_TRACE if is_linked else evaluation.span)
        except BaseException:
            self._keep_lineage(call_id, evaluation)
            raise
        held = self._open_spans.get(call_id)
        return held.span.trace_id if held is not None and not held.is_dropped else None

    def _sum_up(
        self, place: Place, kind: CallKind, call_id: str, instance: Any, *, inputs: dict[str, Any], around: OpenCall
    ) -> bool:
        """Hold a call of which a compile's summary says what it cost; return what `start` returns."""
        if place is Place.CANDIDATE:
            return self._start_candidate(call_id, instance, inputs, around)
        self._summaries.watch(kind, call_id, instance, inputs, around)
        return False

    def _start_candidate(self, call_id: str, instance: Any, inputs: dict[str, Any], around: OpenCall) -> bool:
        """Begin the trace of an example that an optimizer runs a candidate on without an evaluation.

        Returns:
            What `start` returns.
        """
        try:
            trial = self._summaries.trial_of(instance, around)
            if self.evaluate != "linked":
                self._summaries.watch_candidate(call_id, instance, inputs, around, trial)
                return False
            call = self._starts.candidate(call_id, instance, inputs, around, trial)
            is_left_out = self._begin(call, around, NEW_TRACE)
        except BaseException:
            self._keep_lineage(call_id, around)
            raise
        held = self._open_spans.get(call_id)
        if held is not None and not held.is_dropped:
            held.part, held.on_end = trial, lambda _: trial.ran_example(inputs)
            if not held.is_hidden:
                trial.record(held.span.trace_id)
        return is_left_out

    def _open_trial(self, call: CallStart, around: OpenCall) -> None:
        """Open the span of a trial that no event announces; calls of many threads are part of it."""
        kept = self.chain.on_start(call)
        if kept is not None and not kept.is_hidden:
            span: Any = self._engine.open(kept, describe_start(kept, self._capture), around.span)
            span.leave()
            self._hold(kept, span, around)

    def _place(self, around: OpenCall | None) -> tuple[OpenCall | None, Any]:
        """Return the open call that a new one nests in, and the engine's span above it; None leaves that to MLflow.

        Args:
            around: The call that encloses it; where that one is dropped, the new call begins again.
        """
        if around is None or not around.is_dropped:
            return around, None if around is None else around.span
        if around.around is not None:
            return around.around, around.around.span
        # What a middleware dropped is left behind already: `unmute`.
        return None, around.span.around if around.is_suppressed else None

    def _decision(self, parent: OpenCall | None, above: Any) -> bool | None:
        """Return what was decided for the trace before this call; None where this call decides."""
        if parent is not None and above is not None:
            return True
        decided = self._engine.decision(above)
        # Below a hidden root this chain has kept the trace.
        return True if decided is None and parent is not None and parent.owner is self else decided

    def unmute(self) -> Callable[[], None] | None:
        """Take what begins here out of what another callback's middleware dropped, and return what undoes it."""
        dropped = self._enclosing()
        if dropped is None or not dropped.is_dropped or not self._begins_again(dropped, governs=True):
            return None
        return None if dropped.is_suppressed else self._engine.unmute(dropped.span)

    def _begin(self, call: CallStart, parent: OpenCall | None, above: Any) -> bool:
        """Open the span of a call that may be recorded; return what `start` returns."""
        kept = self.chain.on_start(call)
        if kept is None:
            muted = self._engine.mute(above, call.call_id)
            self._hold_dropped(call.call_id, muted, is_final=False, around=None if call.begins_trace else parent)
            return True
        if kept.is_hidden:
            self._hold_hidden(kept, parent)
            return False
        try:
            span = self._engine.open(kept, describe_start(kept, self._capture), above)
        except ExperimentError:  # the trace is lost as a whole: what runs below must not become traces of its own
            self._hold_dropped(call.call_id, self._engine.mute(above, call.call_id))
            raise
        if span.records:
            self._hold(kept, span, parent)
        else:
            self._hold_dropped(call.call_id, span)
        return not span.records

    def _keep_lineage(self, call_id: str, parent: OpenCall | None) -> None:
        """Let what runs below a call whose span is lost nest where that would have stood."""
        if parent is not None and call_id not in self._open_spans:
            self._open_spans.add(call_id, parent)

    def _hold(self, call: CallStart, span: Any, parent: OpenCall | None) -> None:
        if parent is None or parent.is_inherited or call.is_root:
            held = OpenCall(call.call_id, call, span, self, TraceCalls(self), cpu_started=cpu_time())
            _SILENCE.watch(self.max_silent_s)
        elif dspy_internals.carried_call_id() == parent.call_id and self._engine.share(span):
            held = OpenCall(call.call_id, call, span, self, TraceCalls(self), is_carried=True)
        else:
            held = OpenCall(call.call_id, call, span, self, parent.trace)
        self._say_part(held, call, parent)
        if call.attempt is not None and call.attempt.trace_id is None:
            call.attempt.trace_id = span.trace_id
        self._open_spans.add(call.call_id, held)
        self._counters.started()
        self._note_adapter(call, parent)

    def _hold_hidden(self, call: CallStart, parent: OpenCall | None) -> None:
        if call.begins_trace:
            call = attrs.evolve(call, begins_trace=False)
        span, trace = (None, TraceCalls(self)) if parent is None else (parent.span, parent.trace)
        held = OpenCall(call.call_id, call, span, self, trace)
        if parent is not None:
            held.part, held.is_summarized = parent.part, parent.is_summarized
        if call.kind is CallKind.TRIAL:
            held.part = call.watch
        self._open_spans.add(call.call_id, held)
        self._note_adapter(call, parent)

    def _say_part(self, held: OpenCall, call: CallStart, parent: OpenCall | None) -> None:
        """Say to which compile or trial an open call counts."""
        if call.kind is CallKind.TRIAL or (call.kind is CallKind.COMPILE and call.watch is not None):
            held.part, held.is_summarized = call.watch, True
        elif parent is not None:
            held.part = parent.part
        if call.kind is CallKind.COMPILE and call.watch is not None:
            call.watch.began(held.span.trace_id, is_inner=held.span.parent is not None)
            held.on_end = functools.partial(self._summaries.end_groups, call.watch)

    def _enclosing(self) -> OpenCall | None:
        """Return the open call around one that starts here.

        Where its parent is of a kind that nobody records, that is the dropped call further up, if there is one.
        """
        parent_call_id = dspy_internals.active_call_id()
        if parent_call_id is None:
            return None
        around = self._open_spans.get(parent_call_id)
        return self._open_spans.get(self._engine.muted_call_id()) if around is None else around

    def _begins_again(self, dropped: OpenCall, *, governs: bool) -> bool:
        """Return whether a call is recorded although one that encloses it is not."""
        if dropped.is_suppressed:
            return self._engine.is_resumed()
        return governs and not dropped.is_final and dropped.owner is not self

    def _hold_dropped(
        self,
        call_id: str,
        span: Any,
        *,
        is_final: bool = True,
        is_suppressed: bool = False,
        around: OpenCall | None = None,
    ) -> None:
        held = OpenCall(
            call_id, None, span, self, NO_CALLS, is_final=is_final, is_suppressed=is_suppressed, around=around
        )
        self._open_spans.add(call_id, held)
        _SILENCE.watch(self.max_silent_s)
        self._counters.dropped()

    def _note_adapter(self, call: CallStart, parent: OpenCall | None) -> None:
        """Say on the Predict's span when another adapter takes over before an answer was parsed."""
        if call.kind is CallKind.ADAPTER_FORMAT and parent is not None and not parent.is_hidden:
            adapter = type(call.instance).__name__
            if parent.unparsed is not None and parent.unparsed != adapter:
                parent.span.note(fallback_event(parent.unparsed, adapter))
            parent.unparsed = adapter

    def give_up(self, trace: TraceCalls) -> None:
        """Close the open calls of a trace in which nothing happens any more: their ends may never come."""
        seconds = f"{self.max_silent_s:g} seconds"
        self._ends.abandon(trace, SpanEnd(error=f"No call of its trace had started or ended for {seconds}."))

    def give_up_dropped(self, call: OpenCall) -> None:
        """Forget a dropped call, whose end may never come."""
        self._open_spans.abandon_dropped(call)
        call.span.give_up()


def _inherit() -> None:
    OPEN_SPANS.inherit(dspy_internals.active_call_id())


FORKS.begin_anew(_inherit)


def _repeats(kind: CallKind, instance: Any, parent: OpenCall) -> bool:
    """Return whether an adapter's method calls its own base class's: DSPy then emits the event twice."""
    start = parent.start
    return start is not None and start.kind is kind and start.instance is instance
