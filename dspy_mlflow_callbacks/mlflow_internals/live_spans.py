"""Spans that MLflow has in memory, and how they end."""

from __future__ import annotations

import functools
import json
from typing import Any

from mlflow.tracing.config import get_config
from mlflow.tracing.trace_manager import InMemoryTraceManager
from mlflow.tracing.utils import set_span_cost_attribute, should_compute_cost_client_side
from mlflow.tracing.utils.processor import apply_span_processors
from opentelemetry import trace as otel

from dspy_mlflow_callbacks.mlflow_internals.names import REQUEST_ID

_OK = otel.Status(otel.StatusCode.OK)


def live_span(span: Any) -> Any:
    """Return MLflow's live span around *span*, which MLflow's span processor has registered."""
    trace_id = span.attributes[REQUEST_ID]
    span_id = f"{span.get_span_context().span_id:016x}"
    return InMemoryTraceManager.get_instance().get_span_from_id(json.loads(trace_id), span_id)


def replace_event_attribute(event: Any, key: str, text: str) -> None:
    """Put *text* into an event of an open span; OpenTelemetry's SDK does not let one change its attributes."""
    event._attributes = {**event.attributes, key: text}


def replace_status_description(span: Any, text: str) -> None:
    """Put *text* into the status of an open span that has failed."""
    span._status = otel.Status(span.status.status_code, text)


def trace_id_of(span: Any) -> str:
    """Return MLflow's id of the trace that a span is of, which MLflow has, or which is on its way to the store."""
    trace_id: str = json.loads(span.attributes[REQUEST_ID])
    return trace_id


def trace_info(span: Any) -> Any:
    """Return MLflow's `TraceInfo` of the trace that an open span is of; None if it is not in memory."""
    with InMemoryTraceManager.get_instance().get_trace(json.loads(span.attributes[REQUEST_ID])) as trace:
        return None if trace is None else trace.info


def end_span(span: Any, *, is_priced: bool) -> None:
    """Do what `LiveSpan.end` does for a span that has its log level, in a third of its time.

    A status of error that somebody set on the span stays.
    """
    if span.status.status_code is not otel.StatusCode.ERROR:
        span.set_status(_OK)
    if is_priced and should_compute_cost_client_side():
        set_span_cost_attribute(live_span(span))
    if has_span_processors():
        apply_span_processors(live_span(span))
    span.end()


def has_span_processors() -> bool:
    """Return whether the user gave MLflow functions that are to see each of its spans (`mlflow.tracing.configure`)."""
    return bool(get_config().span_processors)


@functools.lru_cache(maxsize=64)
def default_level(span_type: str) -> str | None:
    """Return MLflow's log level for spans of this type as JSON; None before MLflow 3.13, which has no levels."""
    try:
        from mlflow.tracing.utils.default_log_level import default_log_level_for_span_type  # noqa: PLC0415  (not there before)
    except ImportError:  # pragma: no cover  (mlflow < 3.13: `make test-oldest`)
        return None
    return str(int(default_log_level_for_span_type(span_type)))


def is_in_mlflow(span: Any) -> bool:
    """Return whether MLflow has an OpenTelemetry span, which may be anybody's, as a span of a trace of its own."""
    return REQUEST_ID in (getattr(span, "attributes", None) or ())
