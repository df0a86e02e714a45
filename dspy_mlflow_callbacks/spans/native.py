"""The native engine: each call is a live MLflow span, stored by MLflow's own exporters wherever MLflow tracing goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import attrs
import mlflow
import orjson
from mlflow.entities import SpanEvent as MlflowSpanEvent
from mlflow.entities import SpanStatus, SpanStatusCode
from opentelemetry import trace as otel
from opentelemetry.context import Context
from opentelemetry.trace import Span

from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.events import CallStart, Feedback, SpanEnd, SpanEvent, SpanStart
from dspy_mlflow_callbacks.payload import PayloadSteps
from dspy_mlflow_callbacks.spans import gen_ai
from dspy_mlflow_callbacks.spans.around import detached
from dspy_mlflow_callbacks.spans.attributes import has_binary, opening_attributes
from dspy_mlflow_callbacks.spans.delivery_watch import DELIVERY_WATCH
from dspy_mlflow_callbacks.spans.experiments import ChosenExperiment
from dspy_mlflow_callbacks.spans.feedback import leaving_feedback
from dspy_mlflow_callbacks.spans.leaving import preview_content, run_steps, span_content, trace_content

# Spans that MLflow may price when they end.
_PRICED = ("LLM", "CHAT_MODEL")


@attrs.define(eq=False)  # not frozen: that takes three times as long to make
class NativeSpan:
    """A span that is open: OpenTelemetry's, and what takes it out of MLflow's context again.

    One that does not record stands where nothing is stored: MLflow samples it out, or tracing is disabled.
    """

    otel: Span
    records: bool
    _engine: NativeEngine
    _detach: Callable[[], None]
    _is_priced: bool = False
    _is_entry: bool = False

    @property
    def around(self) -> Span:
        """What calls below nest in that are recorded all the same."""
        return self.otel

    def leave(self) -> None:
        """Take the span out of MLflow's context while it stays open: it may be closed in another one."""
        self._detach()
        self._detach = detached

    @property
    def trace_id(self) -> str:
        """MLflow's id of the trace."""
        return internals.trace_id_of(self.otel)

    @property
    def parent(self) -> Any:
        """OpenTelemetry's context of the span it nests in; None for a root."""
        span: Any = self.otel
        return span.parent

    def close(self, end: SpanEnd) -> None:
        """Take the span out of MLflow's context, then end it."""
        # First the context: a span that fails to end must not become the parent of the next trace.
        self._detach()
        if not self.records:
            return
        end = end.whole()
        for event in end.events:
            self.note(event)
        if end.error is not None:
            internals.live_span(self.otel).set_status(SpanStatus(SpanStatusCode.ERROR, end.error))
        _set(self.otel, internals.OUTPUTS, end.outputs, end.attributes)
        if end.feedback is not None:
            self._engine.keep_feedback(self.otel, end.feedback)
        self._engine.run_steps(self.otel, with_trace=self._is_entry)
        internals.end_span(self.otel, is_priced=self._is_priced)

    def note(self, event: SpanEvent) -> None:
        """Add *event* to the span, which is open and records."""
        live = internals.live_span(self.otel)
        live.add_event(MlflowSpanEvent(event.name, attributes=dict(event.attributes)))


class NativeEngine:
    """Opens MLflow spans through MLflow's tracing API.

    Args:
        payload_steps: What runs on a span's content before the span leaves.
        experiment: The experiment of traces that begin here.
        on_loss: Told of what payload steps lost.
    """

    def __init__(
        self, payload_steps: PayloadSteps, experiment: ChosenExperiment, on_loss: Callable[[Exception], object]
    ) -> None:
        self._payload_steps = payload_steps
        self._experiment = experiment
        self._on_loss = on_loss
        self._probed: internals.Tracer | None = None

    def keep_feedback(self, span: Any, feedback: Feedback) -> None:
        """Let MLflow store what a metric says of a span that is about to end with the span's trace."""
        internals.add_feedback(span, leaving_feedback(span, feedback, self._payload_steps, self._on_loss))

    def run_steps(self, span: Any, *, with_trace: bool) -> None:
        """Run the payload steps on a span that is about to end."""
        if not self._payload_steps:
            return
        content = span_content(span, span.set_attribute)
        info = internals.trace_info(span) if with_trace else None
        if info is not None:
            content = chain(content, trace_content(info.tags, info.trace_metadata), preview_content(info))
        run_steps(self._payload_steps, content, self._on_loss)

    def open(self, call: CallStart, start: SpanStart, above: Span) -> NativeSpan:
        """Open a span below *above*, a root where that is invalid, and make it MLflow's active span."""
        tags, metadata = dict(call.tags), dict(call.metadata)  # a middleware's, and refused before a span is there
        tracer = internals.tracer()
        if tracer is not self._probed:  # MLflow takes a new one for a new tracking URI
            self._probed = tracer
            DELIVERY_WATCH.probe()
            internals.describe_for_otlp(tracer.otlp, gen_ai.describe)
        attributes = opening_attributes(call.call_id, start)
        run = None
        if not above.get_span_context().is_valid:
            run = internals.calling_run()
            experiment_id = self._experiment.id(run)
            if experiment_id is not None:
                attributes[internals.EXPERIMENT_ID] = f'"{experiment_id}"'
        span = tracer.tracer.start_span(
            start.name, context=otel.set_span_in_context(above, Context()), attributes=attributes
        )
        detach = tracer.attach(span)
        records = span.is_recording()
        try:
            if records:
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
        return NativeSpan(span, records, self, detach, start.span_type in _PRICED, call.is_entry)


def _set(span: otel.Span, key: str, payload: str | None, attributes: Mapping[str, Any]) -> None:
    """Set a payload and attributes; binary data goes through MLflow, which moves it to attachments."""
    if payload is None:
        span.set_attributes(attributes)
    elif has_binary(payload):
        span.set_attributes(attributes)
        live = internals.live_span(span)
        (live.set_inputs if key == internals.INPUTS else live.set_outputs)(orjson.loads(payload))
    else:
        span.set_attributes({**attributes, key: payload})
