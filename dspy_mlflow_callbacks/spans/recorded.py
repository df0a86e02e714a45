"""The recorded engine: light spans, handed over as whole traces when they have ended.

A call pays for a span's facts and nothing else. Payload steps, tail sampling, MLflow's own facts of a trace and the way
to the store come later, in the thread that delivers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from opentelemetry import trace as otel
from opentelemetry.trace import Status, StatusCode

from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.events import CallStart, SpanEnd, SpanEvent, SpanStart
from dspy_mlflow_callbacks.spans.around import detached, is_users_span_within
from dspy_mlflow_callbacks.spans.attributes import has_binary, opening_attributes
from dspy_mlflow_callbacks.spans.experiments import ChosenExperiment, ExperimentError
from dspy_mlflow_callbacks.spans.foreign_traces import ForeignTrace
from dspy_mlflow_callbacks.spans.light_spans import LightSpan
from dspy_mlflow_callbacks.spans.long_traces import LongTraces
from dspy_mlflow_callbacks.spans.open_spans import OPEN_SPANS
from dspy_mlflow_callbacks.spans.own_traces import OwnTrace
from dspy_mlflow_callbacks.spans.recorded_traces import RecordedTrace, Settings

_OK = Status(StatusCode.OK)
_ERROR_LEVEL = "40"

# Digits in half a UUID, as DSPy writes it, and their base.
_HALF, _HEXADECIMAL = 16, 16


class RecordedSpan(LightSpan):
    """A light span of a call. Until somebody looks, what the call's start and end say is kept as it was said.

    Args:
        call_id: DSPy's id of the call.
        start: What the span says as it opens.
        trace: What it shares with the spans of its trace.
        settings: What the callback that records the call says of content and delivery.
        above: The recorded span it nests in; None where there is none.
        outer: OpenTelemetry's context of the span it nests in, where that is none of ours.
    """

    is_entry = False
    _end: SpanEnd | None = None
    _is_described = False
    _detach: Callable[[], None] = staticmethod(detached)

    def __init__(
        self,
        call_id: str,
        start: SpanStart,
        trace: RecordedTrace,
        settings: Settings,
        *,
        above: RecordedSpan | None,
        outer: otel.SpanContext | None,
    ) -> None:
        super().__init__(start.name, trace, _span_id(call_id), above=above, outer=outer)
        self._call_id = call_id
        self._start = start
        self.settings = settings
        trace.spans.append(self)
        self._detach = trace.tracer.attach(self)

    @property
    def around(self) -> otel.Span:
        """What calls below nest in that are recorded all the same."""
        return self

    @property
    def trace_id(self) -> str:
        """MLflow's id of the trace."""
        trace_id: str = self.trace.trace_id
        return trace_id

    def described(self) -> dict[str, Any]:
        """Return the attributes as the call gives them so far, and let go of what the call holds."""
        start = self._start
        attributes = opening_attributes(self._call_id, start)
        attributes[internals.SPAN_TYPE] = f'"{start.span_type}"'
        _set(attributes, internals.INPUTS, start.inputs)
        self._is_described = True  # an end from now on is for `_take_end`, one before for this
        if self._end is not None:
            _add_end(attributes, self._end)
            self._end = None
        del self._start
        return attributes

    def leave(self) -> None:
        """Take the span out of MLflow's context while it stays open: it may be closed in another one."""
        self._detach()
        self._detach = detached

    def close(self, end: SpanEnd) -> None:
        """Take the span out of MLflow's context, then end it."""
        # First the context: a span that fails to end must not become the parent of the next trace.
        self._detach()
        del self._detach  # with the context that it holds: the span may wait for long
        try:
            for event in end.events:
                self.note(event)
            if end.error is not None:
                self.set_status(Status(StatusCode.ERROR, end.error))
            elif self._status.status_code is not StatusCode.ERROR:
                self._status = _OK
            if end.outputs is not None:
                self.take(internals.OUTPUTS, end.outputs)
            self._take_end(end)
            if end.feedback is not None:
                self.trace.judged.append((self, end.feedback))
        finally:
            self.end()
            if self.is_entry:
                self.trace.end()
            elif self.trace.is_over:
                self.trace.deliver_late(self)

    def inherit(self) -> None:
        """Leave the trace, in a fork, to the process that began it."""
        self.trace.is_inherited = True

    def detach(self) -> None:
        """Take the span out of MLflow's context, and leave its end to the process that this one is a fork of."""
        self._detach()

    def _take_end(self, end: SpanEnd) -> None:
        """Keep the end until somebody looks; another thread may be at it right now."""
        self._end = end
        if self._is_described:
            _add_end(self._attributes, end)
            self._end = None

    def note(self, event: SpanEvent) -> None:
        """Add *event* to the span, which is open."""
        self.add_event(event.name, event.attributes)
        if event.name == "exception" and internals.LOG_LEVEL in self._attributes:
            self._attributes[internals.LOG_LEVEL] = _ERROR_LEVEL  # as MLflow's live spans do

    def take(self, key: str, payload: str) -> None:
        """Take note of a payload; binary data goes through MLflow at once, which moves it to attachments.

        Where MLflow refuses it, the span ends without it.
        """
        self.trace.payload_size += len(payload)
        if has_binary(payload):
            self.promote()
            live = internals.live_span(self)
            try:
                (live.set_inputs if key == internals.INPUTS else live.set_outputs)(orjson.loads(payload))
            except BaseException:
                self._detach()
                self.end()
                raise


def _add_end(attributes: dict[str, Any], end: SpanEnd) -> None:
    whole = end.whole()
    attributes.update(whole.attributes)
    _set(attributes, internals.OUTPUTS, whole.outputs)


def _set(attributes: dict[str, Any], key: str, payload: str | None) -> None:
    """Set inputs or outputs, but where MLflow has taken binary data out of them."""
    if payload is not None and not has_binary(payload):
        attributes[key] = payload


def _open_traces() -> list[RecordedTrace]:
    spans = [call.span for call in OPEN_SPANS.calls()]
    return [span.trace for span in spans if isinstance(span, RecordedSpan) and span.is_entry]


LONG_TRACES = LongTraces(_open_traces)


class RecordedEngine:
    """Opens light spans.

    Args:
        settings: What the callback says of content and delivery.
        experiment: The experiment of traces that begin here.
    """

    def __init__(self, settings: Settings, experiment: ChosenExperiment) -> None:
        self._settings = settings
        self._experiment = experiment

    def open(
        self, call: CallStart, start: SpanStart, above: otel.Span, tracer: internals.Tracer
    ) -> RecordedSpan | None:
        """Open the first span of a trace, or of a part of one that somebody else began; None if MLflow drops it.

        Args:
            call: The call.
            start: What its span says.
            above: The user's span, or a remote parent; an invalid one where a trace begins.
            tracer: Where MLflow sends traces, which has a recorder.
        """
        recorder = tracer.recorder
        outer = above.get_span_context()
        trace: RecordedTrace
        if outer.is_valid:
            experiment_id = internals.carried_experiment() or self._experiment_id(None)
            trace = ForeignTrace(tracer, outer, self._settings, experiment_id)
        else:
            otel_id = _trace_id(call.call_id)
            if recorder.drops(otel_id, start.name):
                return None
            run = internals.calling_run()
            trace = OwnTrace(tracer, otel_id, self._settings, self._experiment_id(run), run)
        trace.say(call.tags, call.metadata)
        LONG_TRACES.watch(self._settings.max_open_s)
        return self._span(call, start, trace, outer=outer if outer.is_valid else None, is_entry=True)

    def open_below(self, call: CallStart, start: SpanStart, parent: RecordedSpan) -> RecordedSpan:
        """Open a span below a recorded one, or below the user's own that is open inside it."""
        trace = parent.trace
        if trace.is_inherited:
            return self._open_in_fork(call, start, parent)
        if call.tags or call.metadata:
            trace.say(call.tags, call.metadata)
        active = trace.tracer.current_span()
        if active is not parent and is_users_span_within(active, parent):
            return self._span(call, start, trace, outer=active.get_span_context())
        return self._span(call, start, trace, above=parent)

    def _open_in_fork(self, call: CallStart, start: SpanStart, parent: RecordedSpan) -> RecordedSpan:
        """Open a span below one of the process that this one is a fork of: the first of a part of that one's trace."""
        of_parent = parent.trace
        tracer, experiment_id = of_parent.tracer, of_parent.destination.experiment_id
        active = tracer.current_span()
        outer = active.get_span_context() if is_users_span_within(active, parent) else parent.context
        trace = ForeignTrace(tracer, outer, self._settings, experiment_id)
        LONG_TRACES.watch(self._settings.max_open_s)
        return self._span(call, start, trace, outer=outer, is_entry=True)

    def _span(
        self,
        call: CallStart,
        start: SpanStart,
        trace: RecordedTrace,
        *,
        above: RecordedSpan | None = None,
        outer: otel.SpanContext | None = None,
        is_entry: bool = False,
    ) -> RecordedSpan:
        span = RecordedSpan(call.call_id, start, trace, self._settings, above=above, outer=outer)
        if is_entry:
            span.is_entry = True
        if start.inputs is not None:
            span.take(internals.INPUTS, start.inputs)
        return span

    def _experiment_id(self, run: Any) -> str:
        try:
            return self._experiment.id(run) or str(internals.active_experiment_id())
        except ExperimentError as error:
            if error.later is None:
                raise
            return error.later  # the store is asked when the trace is delivered


def _span_id(call_id: str) -> int:
    """Return 64 random bits for the id of a span: half of DSPy's id, a UUID of version 4.

    To draw others would cost a system call.
    """
    try:
        return int(call_id[:_HALF], _HEXADECIMAL) or internals.ids.generate_span_id()
    except ValueError:
        return internals.ids.generate_span_id()


def _trace_id(call_id: str) -> int:
    """Return 128 random bits for the id of a trace: those of DSPy's id of its root.

    The halves are swapped: fixed bits of a UUID begin its lower half, which samplers read as a number.
    """
    try:
        return int(call_id[_HALF:] + call_id[:_HALF], _HEXADECIMAL) or internals.ids.generate_trace_id()
    except ValueError:
        return internals.ids.generate_trace_id()
