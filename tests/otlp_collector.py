"""An OTLP collector on 127.0.0.1 that keeps what it is sent, as a backend that is not MLflow would get it."""

from __future__ import annotations

import gzip
import json
from typing import Any

import mlflow
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from werkzeug import Request, Response

from dspy_mlflow_callbacks import mlflow_internals

JSON = ("gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.tool.definitions", "gen_ai.tool.call.arguments")
"""Attributes that are JSON texts."""


class Collector:
    """Answers OTLP over HTTP.

    Args:
        httpserver: The server of pytest-httpserver.
        monkeypatch: Sets the variables by which MLflow finds it, until the test ends.
    """

    def __init__(self, httpserver, monkeypatch) -> None:
        self.url = httpserver.url_for("/v1/traces")
        self.received: list[bytes] = []
        """The requests' bodies, unpacked."""
        httpserver.expect_request("/v1/traces").respond_with_handler(self._take)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", self.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
        mlflow.tracing.reset()

    def spans(self) -> list[Any]:
        """Return all spans that were sent so far in the order in which they started, as protobuf has them."""
        mlflow_internals.tracer().provider.force_flush()
        requests = [ExportTraceServiceRequest.FromString(body) for body in self.received]
        of_resources = [each for request in requests for each in request.resource_spans]
        spans = [span for each in of_resources for scope in each.scope_spans for span in scope.spans]
        return sorted(spans, key=lambda span: span.start_time_unix_nano)

    def names(self) -> list[str]:
        """Return the names of all spans."""
        return [span.name for span in self.spans()]

    def gen_ai(self) -> list[dict[str, Any]]:
        """Return what the spans say in the words of OpenTelemetry, JSON texts as what they say; not those without."""
        return [said for span in self.spans() if (said := gen_ai(attributes(span)))]

    def _take(self, request: Request) -> Response:
        body = request.get_data()
        self.received.append(gzip.decompress(body) if request.headers.get("Content-Encoding") == "gzip" else body)
        return Response(ExportTraceServiceResponse().SerializeToString(), content_type="application/x-protobuf")


def attributes(span: Any) -> dict[str, Any]:
    """Return a protobuf span's attributes."""
    return {each.key: _value(each.value) for each in span.attributes}


def gen_ai(said: dict[str, Any]) -> dict[str, Any]:
    """Return those of a span's attributes that are of OpenTelemetry's conventions for generative AI."""
    words = {key: value for key, value in said.items() if key.startswith("gen_ai.") or key == "error.type"}
    return {key: json.loads(value) if key in JSON else value for key, value in words.items()}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind)
