"""Spooled traces as files that OpenTelemetry tools read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from dspy_mlflow_callbacks.export.spool.reading import all_rows
from dspy_mlflow_callbacks.export.spool.settings import SpoolSettings
from dspy_mlflow_callbacks.export.spool.tables import Row


def write_jsonl(settings: SpoolSettings, file: Path, *, dead_letters: bool = False) -> int:
    """Write a line of OTLP/JSON for each trace, as OpenTelemetry's file exporter does; return how many there are.

    https://opentelemetry.io/docs/specs/otel/protocol/file-exporter/

    Raises:
        SpoolError: if the spool cannot be read.
        OSError: if the file cannot be written, or is there already.
    """
    rows = all_rows(settings, dead_letters=dead_letters)
    with _created(file) as written:
        written.writelines(f"{json.dumps(as_json(row.request))}\n".encode() for row in rows)
    return len(rows)


def write_protobuf(settings: SpoolSettings, folder: Path, *, dead_letters: bool = False) -> int:
    """Write a file of OTLP for each trace, named by its row and id; return how many there are.

    Raises:
        SpoolError: if the spool cannot be read.
        OSError: if a file cannot be written, or is there already.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    rows = all_rows(settings, dead_letters=dead_letters)
    for number, row in enumerate(rows):
        with _created(folder / f"{number:06}-{_safe(row)}.pb") as written:
            written.write(row.request)
    return len(rows)


def as_json(request: bytes) -> dict[str, Any]:
    """Return an OTLP request as OTLP/JSON: as protobuf's, but ids are hexadecimal and enumerations numbers."""
    message = ExportTraceServiceRequest.FromString(request)
    said: dict[str, Any] = MessageToDict(message, use_integers_for_enums=True)
    for told, span in zip(spans_in(said), _messages(message), strict=True):
        told["traceId"], told["spanId"] = span.trace_id.hex(), span.span_id.hex()
        if span.parent_span_id:
            told["parentSpanId"] = span.parent_span_id.hex()
        for said_link, link in zip(told.get("links", ()), span.links, strict=True):
            said_link["traceId"], said_link["spanId"] = link.trace_id.hex(), link.span_id.hex()
    return said


def spans_in(said: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the spans of an OTLP request as JSON."""
    for resource in said.get("resourceSpans", ()):
        for scope in resource.get("scopeSpans", ()):
            yield from scope.get("spans", ())


def _messages(message: Any) -> Iterable[Any]:
    return (span for resource in message.resource_spans for scope in resource.scope_spans for span in scope.spans)


def _safe(row: Row) -> str:
    return "".join(each for each in row.trace_id if each.isalnum() or each == "-")[:64]


def _created(file: Path) -> IO[bytes]:
    """Open a new file that only its owner reads: traces hold what users said."""
    return os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
