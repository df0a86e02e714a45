"""What stands around a call in MLflow's context: the span that its own nests in, and what was decided there."""

from __future__ import annotations

from typing import Any

from opentelemetry import trace as otel
from opentelemetry.trace import INVALID_SPAN

from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.spans.attributes import CALL_ID
from dspy_mlflow_callbacks.spans.light_spans import LightSpan


def span_around(active: otel.Span, parent: otel.Span | None) -> otel.Span:
    """Return the span that a call nests in; an invalid one where it begins a trace.

    A span of the user's own that is open inside the DSPy parent's trace stands between; else the DSPy parent; else
    whatever MLflow's context holds: the user's span, a remote parent, or nothing.

    Args:
        active: The span in MLflow's context.
        parent: The span of the DSPy parent; an invalid one for a call with which a trace begins, whatever is around it.
    """
    if parent is INVALID_SPAN:
        return INVALID_SPAN
    if parent is not None:
        return active if is_users_span_within(active, parent) else parent
    if isinstance(active, LightSpan):
        return active if active.is_recording() else _ended(active)
    if isinstance(active, otel.NonRecordingSpan):
        return active
    if internals.is_carried(active) and not active.is_recording() and internals.is_in_mlflow(active):
        return _ended(active)
    # One that has ended, or where MLflow shares OpenTelemetry's context, somebody's that MLflow knows nothing of.
    return active if active.is_recording() and internals.is_in_mlflow(active) else INVALID_SPAN


def _ended(span: Any) -> otel.Span:
    """Return what a call nests in whose context has a span that has ended.

    Work that was handed to another thread goes on when the span is over in which it was handed over, as another
    process's does.
    """
    if not internals.is_carried(span):
        return INVALID_SPAN
    context = span.context
    remote = otel.SpanContext(context.trace_id, context.span_id, True, context.trace_flags, context.trace_state)  # noqa: FBT003
    return otel.NonRecordingSpan(remote)


def is_users_span_within(active: otel.Span, parent: Any) -> bool:
    """Return whether *active* is a span of the user's own that is open in the trace of *parent*, a recording span."""
    return (
        not isinstance(active, LightSpan)  # to ask it for its attributes would promote it
        and active.is_recording()
        and active.get_span_context().trace_id == parent.context.trace_id
        and internals.is_in_mlflow(active)
        and CALL_ID not in getattr(active, "attributes", {})
    )


def decision_of(around: otel.Span) -> bool | None:
    """Return what was decided for the trace that a call would be part of.

    True where the user's own span around it records or a remote parent is sampled, False where not, None where
    there is nothing around it.
    """
    if isinstance(around, LightSpan):
        return True if around.is_recording() or internals.is_carried(around) else None
    if internals.is_carried(around) and internals.is_in_mlflow(around):
        return True
    context = around.get_span_context()
    if not context.is_valid:
        return None
    if isinstance(around, otel.NonRecordingSpan):
        return context.trace_flags.sampled
    return True if around.is_recording() and internals.is_in_mlflow(around) else None


def detached() -> None:
    """Take a span out of MLflow's context that is out of it already."""
