"""The native engine: each call is a live MLflow span, stored by MLflow's own exporters wherever MLflow tracing goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import mlflow
import orjson
from mlflow.entities import SpanEvent as MlflowSpanEvent
from mlflow.entities import SpanStatus, SpanStatusCode
from opentelemetry import trace as otel
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, INVALID_SPAN_CONTEXT, Span

from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.events import CallStart, SpanEnd, SpanEvent, SpanStart
from dspy_mlflow_callbacks.payload import PayloadSteps
from dspy_mlflow_callbacks.spans import gen_ai
from dspy_mlflow_callbacks.spans.delivery import DELIVERY
from dspy_mlflow_callbacks.spans.experiments import NAMES, Experiment, ExperimentError, experiment_of_variables
from dspy_mlflow_callbacks.spans.leaving import run_steps

# An attribute of every span of ours: it tells them from the user's own.
CALL_ID = "dspy.call_id"

# MLflow's numbers for its log levels (mlflow.entities.SpanLogLevel, since MLflow 3.13).
_LOG_LEVELS = {"DEBUG": "10", "INFO": "20", "WARNING": "30", "ERROR": "40", "CRITICAL": "50"}

# Spans that MLflow may price when they end.
_PRICED = ("LLM", "CHAT_MODEL")

# What marks binary data in a JSON text: a data URI (RFC 2397), or OpenAI's audio part.
_DATA_URI, _AUDIO = ";base64,", '"input_audio"'


def _do_nothing() -> None:
    """Stand where nothing was attached to MLflow's context."""


@attrs.define(eq=False)  # not frozen: that takes three times as long to make
class NativeSpan:
    """A span that is open: OpenTelemetry's, and what takes it out of MLflow's context again.

    One that is not recording stands where nothing is stored: the call is dropped, MLflow samples it out, or tracing is
    disabled. It knows what stands around it.
    """

    otel: Span
    detach: Callable[[], None] = _do_nothing
    is_recording: bool = False
    is_priced: bool = False
    is_entry: bool = False
    around: Span = INVALID_SPAN


class _MutedSpan(otel.NonRecordingSpan):
    """A span that is not sampled, and MLflow's sampler follows its local parent.

    Ids are drawn when somebody asks for them, such as who sends them to another process: most are never asked.
    """

    def __init__(self, around: Span, call_id: str) -> None:
        self._context = INVALID_SPAN_CONTEXT
        self._around = around
        self.call_id = call_id

    def get_span_context(self) -> otel.SpanContext:
        """Return the context: the trace of what is around the span, or one of its own."""
        if not self._context.is_valid:
            trace_id = self._around.get_span_context().trace_id or internals.ids.generate_trace_id()
            self._context = otel.SpanContext(trace_id, internals.ids.generate_span_id(), is_remote=False)
        return self._context


class NativeEngine:
    """Opens and closes MLflow spans through MLflow's tracing API.

    Args:
        payload_steps: What runs on a span's content before the span leaves.
        experiment: Name or id of the experiment of traces that begin here; None is MLflow's active one.
        on_loss: Told of what payload steps lost.
    """

    scope = staticmethod(internals.current_scope)
    is_suppressed = staticmethod(internals.is_suppressed)
    is_resumed = staticmethod(internals.is_resumed)

    def __init__(
        self, payload_steps: PayloadSteps, experiment: str | None, on_loss: Callable[[Exception], object]
    ) -> None:
        DELIVERY.start()
        self._probed: internals.Tracer | None = None
        self._payload_steps = payload_steps
        self._experiment = None if experiment is None else Experiment(experiment)
        self._on_loss = on_loss

    def experiment(self) -> tuple[str, ...]:
        """Return the id and the name of the experiment of traces that begin now; empty if the store does not say."""
        try:
            attribute = self._experiment_attribute(internals.calling_run())
        except ExperimentError:
            return ()
        chosen = attribute.get(internals.EXPERIMENT_ID)
        return NAMES(internals.active_experiment_id() if chosen is None else orjson.loads(chosen))

    def decision(self, parent: NativeSpan | None) -> bool | None:
        """Return what was decided for the trace that a call would be part of.

        True where the user's own span around it records or a remote parent is sampled, False where not, None where
        there is nothing around it.
        """
        span = internals.tracer().current_span() if parent is None else parent.otel
        context = span.get_span_context()
        if not context.is_valid:
            return None
        if isinstance(span, otel.NonRecordingSpan):
            return context.trace_flags.sampled
        return True if span.is_recording() and internals.is_in_mlflow(span) else None

    def around(self, muted: NativeSpan) -> NativeSpan:
        """Return what stands around a span that `mute` gave: an open span below it is outside of what is dropped."""
        return NativeSpan(muted.around)

    def muted_call_id(self) -> str | None:
        """Return the id of the dropped call for which `mute` changed MLflow's context; None where it did not."""
        span = internals.tracer().current_span()
        return span.call_id if isinstance(span, _MutedSpan) else None

    def unmute(self, muted: NativeSpan) -> Callable[[], None]:
        """Make what stands around a span that `mute` gave MLflow's active span, and return what undoes it."""
        return internals.tracer().attach(muted.around)

    def open(self, call: CallStart, start: SpanStart, parent: NativeSpan | None) -> NativeSpan:
        """Open a span below *parent*, or where MLflow's context says, and make it MLflow's active span."""
        tags, metadata = dict(call.tags), dict(call.metadata)  # a middleware's, and refused before a span is there
        tracer = internals.tracer()
        if tracer is not self._probed:  # MLflow takes a new one for a new tracking URI
            self._probed = tracer
            DELIVERY.probe()
            internals.describe_for_otlp(tracer.otlp, gen_ai.describe)
        above = _parent_span(tracer.current_span(), parent)
        run = None if above.get_span_context().is_valid else internals.calling_run()
        attributes = _attributes(call.call_id, start)
        if not above.get_span_context().is_valid:
            attributes.update(self._experiment_attribute(run))
        span = tracer.tracer.start_span(
            start.name, context=otel.set_span_in_context(above, Context()), attributes=attributes
        )
        is_recording = span.is_recording()
        detach = tracer.attach(span)
        try:
            if is_recording:
                # MLflow has made its own span around this one, without a type.
                _set(span, internals.INPUTS, start.inputs, {internals.SPAN_TYPE: f'"{start.span_type}"'})
                if run is not None:
                    metadata[internals.SOURCE_RUN] = run.info.run_id
                if tags or metadata:
                    mlflow.update_current_trace(tags=tags, metadata=metadata)
        except BaseException:
            detach()
            span.end()
            raise
        return NativeSpan(span, detach, is_recording, start.span_type in _PRICED, call.is_entry)

    def _experiment_attribute(self, run: Any) -> dict[str, str]:
        """Return the attribute of a root that says where its trace goes; none leaves it to MLflow."""
        if self._experiment is not None:
            return {internals.EXPERIMENT_ID: f'"{self._experiment.id()}"'}
        if run is not None and not internals.has_destination():
            return {internals.EXPERIMENT_ID: f'"{run.info.experiment_id}"'}
        name, experiment_id = internals.experiment_variables()
        if name or experiment_id:
            return {internals.EXPERIMENT_ID: f'"{experiment_of_variables(name, experiment_id).id()}"'}
        return {}

    def mute(self, parent: NativeSpan | None, call_id: str) -> NativeSpan:
        """Put a span that records nothing into MLflow's context, so that foreign spans below are dropped too."""
        tracer = internals.tracer()
        above = _parent_span(tracer.current_span(), parent)
        span = _MutedSpan(above, call_id)
        return NativeSpan(span, tracer.attach(span), around=above)

    def close(self, span: NativeSpan, end: SpanEnd) -> None:
        """Take *span* out of MLflow's context, then end it."""
        # First the context: a span that fails to end must not become the parent of the next trace.
        span.detach()
        if not span.is_recording:
            return
        for event in end.events:
            self.add_event(span, event)
        if end.error is not None:
            internals.live_span(span.otel).set_status(SpanStatus(SpanStatusCode.ERROR, end.error))
        _set(span.otel, internals.OUTPUTS, end.outputs, end.attributes)
        if self._payload_steps:
            run_steps(self._payload_steps, span.otel, self._on_loss, with_trace=span.is_entry)
        internals.end_span(span.otel, is_priced=span.is_priced)

    def add_event(self, span: NativeSpan, event: SpanEvent) -> None:
        """Add *event* to a span that is open and recording."""
        live = internals.live_span(span.otel)
        live.add_event(MlflowSpanEvent(event.name, attributes=dict(event.attributes)))


def _parent_span(active: otel.Span, parent: NativeSpan | None) -> otel.Span:
    """Return the span to nest below; *active* is the one in MLflow's context.

    A span of the user's own that is open inside the DSPy parent's trace stands between; else the DSPy parent; else
    whatever MLflow's context holds: the user's span, a remote parent, or nothing.
    """
    if parent is not None:
        return active if _is_users_span_within(active, parent) else parent.otel
    if isinstance(active, otel.NonRecordingSpan):
        return active
    # One that has ended, or where MLflow shares OpenTelemetry's context, somebody's that MLflow knows nothing of.
    return active if active.is_recording() and internals.is_in_mlflow(active) else otel.INVALID_SPAN


def _is_users_span_within(active: otel.Span, parent: NativeSpan) -> bool:
    return (
        active.is_recording()
        and active.get_span_context().trace_id == parent.otel.get_span_context().trace_id
        and internals.is_in_mlflow(active)
        and CALL_ID not in getattr(active, "attributes", {})
    )


def _attributes(call_id: str, start: SpanStart) -> dict[str, str]:
    attributes = {**start.attributes, CALL_ID: f'"{call_id}"'}
    level = _LOG_LEVELS[start.level] if start.level is not None else internals.default_level(start.span_type)
    if level is not None:  # pragma: no branch  (None before MLflow 3.13: `make test-oldest`)
        attributes[internals.LOG_LEVEL] = level
    return attributes


def _set(span: otel.Span, key: str, payload: str | None, attributes: Mapping[str, str]) -> None:
    """Set a payload and attributes; binary data goes through MLflow, which moves it to attachments."""
    if payload is None:
        span.set_attributes(attributes)
    elif _DATA_URI in payload or _AUDIO in payload:
        span.set_attributes(attributes)
        live = internals.live_span(span)
        (live.set_inputs if key == internals.INPUTS else live.set_outputs)(orjson.loads(payload))
    else:
        span.set_attributes({**attributes, key: payload})
