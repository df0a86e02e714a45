"""Spans as OTLP: the bytes are those of MLflow's own client, and what reads them back finds the same spans."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path

import pytest
from ended import spans_of_a_trace
from hypothesis import given
from hypothesis import strategies as st
from mlflow.entities.span import Span
from mlflow.tracing.utils.otlp import resource_to_otel_proto
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Link, SpanContext, Status, StatusCode

from dspy_mlflow_callbacks.export.otlp import request_of_texts, request_of_values
from dspy_mlflow_callbacks.export.otlp_reader import spans_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
)


class Word(str, Enum):
    ONE = "one"


def mlflows_request(spans):
    """Return what `RestStore.log_spans` of MLflow sends."""
    request = ExportTraceServiceRequest()
    resource_spans = request.resource_spans.add()
    resource_spans.resource.CopyFrom(resource_to_otel_proto(Resource.get_empty()))
    scope_spans = resource_spans.scope_spans.add()
    scope_spans.spans.extend(Span(span).to_otel_proto() for span in spans)
    return request.SerializeToString()


def span_with(**replaced):
    """Return the second span of a trace, with parts of it replaced."""
    span = spans_of_a_trace(2)[1]
    parts = {
        "name": span.name,
        "context": span.context,
        "parent": span.parent,
        "resource": span.resource,
        "attributes": dict(span.attributes),
        "status": span.status,
        "start_time": span.start_time,
        "end_time": span.end_time,
        **replaced,
    }
    if "attributes" in replaced:
        parts["attributes"] = {**span.attributes, **replaced["attributes"]}
    return ReadableSpan(**parts)


EVENT = {"text": "é", "number": 3, "ratio": 0.5, "is": True, "many": ("a", "b"), "bytes": b"\x00\xff"}
LINKED = SpanContext(1 << 100, 77, is_remote=False)

SPANS = {
    "a whole trace": lambda: spans_of_a_trace(5, **{"mlflow.spanInputs": {"question": ["why?", {}, [], None]}}),
    "an error": lambda: [span_with(status=Status(StatusCode.ERROR, "it broke: é"))],
    "no status": lambda: [span_with(status=Status(StatusCode.UNSET))],
    "not ended": lambda: [span_with(end_time=None)],
    "events": lambda: [span_with(events=[Event("exception", EVENT, 5), Event("empty", {}, 6)])],
    "links": lambda: [span_with(links=[Link(LINKED, {"why": "because", "n": 1}), Link(LINKED)])],
    "a text that is no JSON": lambda: [span_with(attributes={"text": "not JSON", "infinite": "[NaN, -Infinity]"})],
    "what is no text": lambda: [span_with(attributes={"number": 3, "member": Word.ONE})],
    "half a surrogate pair": lambda: [span_with(attributes={"text": json.dumps("\ud800"), "raw": "\ud800"})],
}


@pytest.mark.parametrize("spans", SPANS.values(), ids=SPANS)
def test_the_bytes_are_those_of_mlflows_client(spans):
    """A tracking server gets byte by byte what MLflow's own client would send it."""
    made = spans()
    assert request_of_values(made) == mlflows_request(made)


@given(JSON)
def test_every_json_value_is_sent_as_mlflow_sends_it(value):
    """Whatever JSON an attribute is, a tracking server gets the bytes that MLflow's client would send it."""
    spans = [span_with(attributes={"value": json.dumps(value)})]
    assert request_of_values(spans) == mlflows_request(spans)


def test_what_is_no_value_is_sent_as_a_text():
    """A value of a type that OTLP does not have is sent as MLflow sends it: as a text."""
    spans = [span_with(events=[Event("event", {"path": Path("/there"), "none": None}, 5)])]
    assert request_of_values(spans) == mlflows_request(spans)


def test_a_number_of_more_than_64_bits_is_sent_as_a_text():
    """A number that OTLP cannot carry becomes a text; MLflow's client would fail over the whole batch."""
    (span,) = spans_of(request_of_values([span_with(attributes={"number": str(2**63)})]))
    assert span.attributes["number"] == str(2**63)


@pytest.mark.parametrize("spans", SPANS.values(), ids=SPANS)
def test_the_other_end_of_the_pipe_has_the_same_spans(spans):
    """What the exporter process reads is, for MLflow, what the program has, but for what UTF-8 cannot say."""
    made = spans()
    assert as_text(spans_of(request_of_texts(made))) == as_text(made).replace("\ud800", "?")


def as_text(spans):
    return json.dumps([Span(span).to_dict() for span in spans], default=repr, ensure_ascii=False)


@given(JSON)
def test_values_are_read_as_they_were_sent(value):
    """Whatever the value, it is read as it was sent: lists, objects, numbers, nothing."""
    (span,) = spans_of(request_of_values([span_with(attributes={"value": json.dumps(value)})]))
    assert json.dumps(span.attributes["value"]) == json.dumps(value)
