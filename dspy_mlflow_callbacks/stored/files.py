"""Traces as lines of a file: MLflow's JSON, which has all of a trace, or OTLP, which other tools read."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from google.protobuf.json_format import ParseDict
from mlflow.entities import Trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan

from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.export.otlp import request_of_values
from dspy_mlflow_callbacks.export.otlp_reader import spans_of_values
from dspy_mlflow_callbacks.export.spool.exporting import as_json, spans_in
from dspy_mlflow_callbacks.export.waiting import Prepared

FORMATS = ("json", "otlp")
"""What a line may be."""

_OF_SPANS = {"mlflow.trace.session": "session.id", "mlflow.trace.user": "user.id"}
_ID_BYTES = {"traceId": 16, "spanId": 8, "parentSpanId": 8}


def line_of(trace: Trace, form: str) -> str:
    """Return a trace as one line.

    Args:
        trace: The trace.
        form: `json`: what `trace.to_json()` returns. `otlp`: OTLP/JSON as OpenTelemetry's file exporter writes it, with
            tags, session and user as attributes of the root, where MLflow reads them again.
    """
    if form == "json":
        return str(trace.to_json())
    spans = [_with_facts(span, trace) for span in map(internals.otel_span, trace.data.spans)]
    return json.dumps(as_json(request_of_values(spans)))


def _with_facts(span: ReadableSpan, trace: Trace) -> ReadableSpan:
    if span.parent is not None:
        return span
    tags = {f"mlflow.traceTag.{key}": value for key, value in trace.info.tags.items() if not _is_of_store(key)}
    said = {name: trace.info.trace_metadata.get(key) for key, name in _OF_SPANS.items()}
    texts = {key: internals.attribute_text(value) for key, value in {**tags, **said}.items() if value is not None}
    return ReadableSpan(
        name=span.name,
        context=span.context,
        parent=None,
        resource=span.resource,
        attributes={**(span.attributes or {}), **texts},
        events=span.events,
        links=span.links,
        status=span.status,
        start_time=span.start_time,
        end_time=span.end_time,
    )


def _is_of_store(tag: str) -> bool:
    return tag.startswith("mlflow.") and tag != "mlflow.traceName"


def prepared_of(line: str, experiment_id: str) -> list[Prepared]:
    """Return the traces of a line, which says itself what it is, as what a store is sent.

    Args:
        line: Of a file that `line_of`, `dspy-mlflow spool export` or OpenTelemetry's file exporter has written.
        experiment_id: Where they go.

    Raises:
        ValueError: if the line holds no trace.
    """
    try:
        said = json.loads(line)
        return _of_otlp(said) if "resourceSpans" in said else [_of_json(said, experiment_id)]
    except Exception as error:  # whatever a text that is no trace makes of MLflow and protobuf
        message = f"no trace in MLflow's JSON or in OTLP/JSON: {type(error).__name__}: {str(error)[:200]}"
        raise ValueError(message) from error


def _of_json(said: Mapping[str, Any], experiment_id: str) -> Prepared:
    trace = Trace.from_dict(said)
    info = trace.info
    info.trace_location.mlflow_experiment.experiment_id = experiment_id
    info.tags = {key: value for key, value in info.tags.items() if not _is_of_store(key)}
    spans = [internals.otel_span(span) for span in trace.data.spans]
    return Prepared(trace_id=info.trace_id, spans=spans, info=info)


def _of_otlp(said: dict[str, Any]) -> list[Prepared]:
    for span in spans_in(said):
        _make_readable(span)
    request = ParseDict(said, ExportTraceServiceRequest(), ignore_unknown_fields=True)
    traces: dict[str, list[ReadableSpan]] = {}
    for each in spans_of_values(request.SerializeToString()):
        traces.setdefault(f"tr-{each.context.trace_id:032x}", []).append(each)
    return [Prepared(trace_id=trace_id, spans=spans) for trace_id, spans in traces.items()]


def _make_readable(span: dict[str, Any]) -> None:
    """Let a span's ids be as protobuf's JSON has bytes, and let it say which trace it is of, as MLflow wants it."""
    attributes = [each for each in span.get("attributes", ()) if each.get("key") != internals.REQUEST_ID]
    span["attributes"] = [*attributes, {"key": internals.REQUEST_ID, "value": {"stringValue": f"tr-{span['traceId']}"}}]
    for part in (span, *span.get("links", ())):
        part |= {key: _base64(part[key], key) for key in _ID_BYTES if part.get(key)}


def _base64(text: str, key: str) -> str:
    raw = bytes.fromhex(text)
    if len(raw) != _ID_BYTES[key]:
        message = f"{key} must have {2 * _ID_BYTES[key]} hexadecimal digits, got {text!r}"
        raise ValueError(message)
    return base64.b64encode(raw).decode()
