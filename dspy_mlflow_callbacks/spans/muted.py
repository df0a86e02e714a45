"""What stands in MLflow's context where nothing is recorded."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from opentelemetry import trace as otel
from opentelemetry.trace import INVALID_SPAN_CONTEXT

from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.events import SpanEnd


class _MutedSpan(otel.NonRecordingSpan):
    """A span that is not sampled, and MLflow's sampler follows its local parent.

    Ids are drawn when somebody asks for them, such as who sends them to another process: most are never asked.
    """

    def __init__(self, around: otel.Span, call_id: str) -> None:
        self._context = INVALID_SPAN_CONTEXT
        self._around = around
        self.call_id = call_id
        self.is_over = False

    def get_span_context(self) -> otel.SpanContext:
        """Return the context: the trace of what is around the span, or one of its own."""
        if self.is_over:
            return INVALID_SPAN_CONTEXT
        if not self._context.is_valid:
            trace_id = self._around.get_span_context().trace_id or internals.ids.generate_trace_id()
            self._context = otel.SpanContext(trace_id, internals.ids.generate_span_id(), is_remote=False)
        return self._context


@attrs.define(eq=False)  # not frozen: that takes three times as long to make
class Muted:
    """A call of which nothing is recorded, nor of what is below it.

    Attributes:
        around: OpenTelemetry's span around the call; an invalid one where there is none.
    """

    around: otel.Span
    _span: _MutedSpan
    _detach: Callable[[], None]

    records = False

    def close(self, end: SpanEnd) -> None:
        """Take it out of MLflow's context."""
        self._detach()

    def give_up(self) -> None:
        """Let it say nothing any more, wherever it stands in MLflow's context: its end may never come."""
        self._span.is_over = True

    def inherit(self) -> None:
        """Stay what it is in a fork."""

    def detach(self) -> None:
        """Take it out of MLflow's context."""
        self._detach()


def mute(around: otel.Span, call_id: str) -> Muted:
    """Put a span that records nothing into MLflow's context, so that foreign spans below are dropped too."""
    span = _MutedSpan(around, call_id)
    return Muted(around, span, internals.tracer().attach(span))


def muted_call_id() -> str | None:
    """Return the id of the dropped call for which `mute` changed MLflow's context; None where it did not."""
    span = internals.tracer().current_span()
    return span.call_id if isinstance(span, _MutedSpan) else None


def unmute(muted: Muted) -> Callable[[], None]:
    """Make what stands around a call that is left out MLflow's active span, and return what undoes it."""
    return internals.tracer().attach(muted.around)
