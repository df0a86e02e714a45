"""Spans out of OTLP, with attributes that are JSON texts, as MLflow keeps them: the other end of `otlp`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Link, SpanContext, Status, StatusCode, TraceFlags

from dspy_mlflow_callbacks import mlflow_internals as internals

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_STATUSES = frozenset(code.value for code in StatusCode)
_NO_RESOURCE = Resource({})


def spans_of(request: bytes) -> list[ReadableSpan]:
    """Return the spans of an OTLP request whose attributes are JSON texts (`otlp.request_of_texts`).

    Raises:
        google.protobuf.message.DecodeError: if the bytes are none.
    """
    return [_span(message, _value) for message in _messages(request)]


def spans_of_values(request: bytes) -> list[ReadableSpan]:
    """Return the spans of any OTLP request: their attributes become JSON texts.

    Raises:
        google.protobuf.message.DecodeError: if the bytes are none.
    """
    return [_span(message, _text) for message in _messages(request)]


def _messages(request: bytes) -> Iterator[Any]:
    parsed = ExportTraceServiceRequest.FromString(request)
    return (each for resource in parsed.resource_spans for scope in resource.scope_spans for each in scope.spans)


def _span(message: Any, value: Callable[[Any], Any]) -> ReadableSpan:
    parent = _context(message.trace_id, message.parent_span_id) if message.parent_span_id else None
    return ReadableSpan(
        name=message.name,
        context=_context(message.trace_id, message.span_id),
        parent=parent,
        resource=_NO_RESOURCE,
        attributes={each.key: value(each.value) for each in message.attributes},
        events=[Event(each.name, _attributes(each), each.time_unix_nano) for each in message.events],
        links=[Link(_context(each.trace_id, each.span_id), _attributes(each)) for each in message.links],
        status=_status(message.status),
        start_time=message.start_time_unix_nano,
        end_time=message.end_time_unix_nano or None,
    )


def _status(message: Any) -> Status:
    # Protobuf's enums are open: what OTLP does not have is none.
    code = StatusCode(message.code) if message.code in _STATUSES else StatusCode.UNSET
    return Status(code, message.message or None)


def _context(trace_id: bytes, span_id: bytes) -> SpanContext:
    return SpanContext(
        int.from_bytes(trace_id, "big"), int.from_bytes(span_id, "big"), is_remote=False, trace_flags=_SAMPLED
    )


def _attributes(message: Any) -> dict[str, Any]:
    return {each.key: _value(each.value) for each in message.attributes}


def _text(message: Any) -> str:
    return internals.attribute_text(_value(message))


def _value(message: Any) -> Any:
    kind = message.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in message.array_value.values]
    if kind == "kvlist_value":
        return {each.key: _value(each.value) for each in message.kvlist_value.values}
    return getattr(message, kind) if kind else None
