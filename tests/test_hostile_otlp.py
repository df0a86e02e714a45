"""The reader of OTLP on bytes that nobody meant."""

from __future__ import annotations

import pytest
from ended import spans_of_a_trace
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from dspy_mlflow_callbacks.export.otlp import request_of_texts
from dspy_mlflow_callbacks.export.otlp_reader import spans_of

REQUEST = request_of_texts(spans_of_a_trace(3))

hostile = settings(max_examples=300, deadline=None, derandomize=True, database=None)


def read(request):
    """Return how many spans were read; -1 if the bytes were refused."""
    try:
        spans = spans_of(request)
    except DecodeError:
        return -1
    assert all(isinstance(span, ReadableSpan) for span in spans)
    return len(spans)


@hostile
@given(request=st.binary(max_size=200))
def test_any_bytes(request):
    """Any bytes are read or refused with the one error that is documented."""
    assert read(request) >= -1


@hostile
@given(cut=st.integers(0, len(REQUEST)))
def test_a_request_that_ends_early(cut):
    """A request that is cut anywhere has no more spans than the whole."""
    assert read(REQUEST[:cut]) <= 3


@hostile
@given(flips=st.lists(st.tuples(st.integers(0, len(REQUEST) - 1), st.integers(1, 255)), min_size=1, max_size=4))
def test_bytes_that_have_changed(flips):
    """A request with other bytes in it is read or refused."""
    damaged = bytearray(REQUEST)
    for place, change in flips:
        damaged[place] ^= change
    assert read(bytes(damaged)) >= -1


@pytest.mark.parametrize(("code", "expected"), [(2, StatusCode.ERROR), (7, StatusCode.UNSET), (-1, StatusCode.UNSET)])
def test_a_status_that_is_none(code, expected):
    """A status that OTLP does not have is none (as protobuf's open enums are meant to be read)."""
    request = ExportTraceServiceRequest.FromString(REQUEST)
    request.resource_spans[0].scope_spans[0].spans[0].status.code = code
    assert spans_of(request.SerializeToString())[0].status.status_code is expected
