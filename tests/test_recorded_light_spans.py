"""A light span behaves as OpenTelemetry's own: each test does the same to both, and compares what they have become."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
from opentelemetry import trace as otel
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags

from dspy_mlflow_callbacks.spans.light_spans import LightSpan

OTHER = SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))


@pytest.fixture(autouse=True)
def _quiet():
    """Let OpenTelemetry's SDK not say what it thinks of the values."""
    loggers = [logging.getLogger(name) for name in ("opentelemetry.sdk.trace", "opentelemetry.attributes")]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    yield
    for logger in loggers:
        logger.setLevel(logging.NOTSET)


class Undescribed(LightSpan):
    """A span of which its call says nothing."""

    def described(self):
        return {}


def light(above=None, outer=None, trace=None):
    """Return a light span of a trace that nobody looks at."""
    trace = trace or SimpleNamespace(otel_id=0xABC, trace_state=None, is_in_memory=lambda: True)
    span = Undescribed("span", trace, 0xDEF, above=above, outer=outer)
    span._is_live = True  # to be asked for attributes is no look here
    return span


def sdk():
    return TracerProvider(shutdown_on_exit=False).get_tracer("test").start_span("span")


def facts(span):
    """Return what a span has become."""
    return {
        "name": span.name,
        "attributes": {key: (type(value), value) for key, value in span.attributes.items()},
        "status": (span.status.status_code, span.status.description),
        "events": [(event.name, _without_stack(event.attributes)) for event in span.events],
        "links": [(link.context, dict(link.attributes)) for link in span.links],
        "kind": span.kind,
        "is_recording": span.is_recording(),
        "ended": span.end_time is not None,
    }


def _without_stack(attributes):
    said = dict(attributes or {})
    if "exception.stacktrace" in said:
        said["exception.stacktrace"] = said["exception.stacktrace"].splitlines()[-1]
    return said


def record(span, **arguments):
    try:
        raise ValueError("no")
    except ValueError as error:
        span.record_exception(error, **arguments)


def raises_in(span):
    with pytest.raises(ValueError, match="no"), span:
        raise ValueError("no")


def leaves(span):
    with span as entered:
        assert entered is span


VALUES = ["text", 1, 1.5, True, b"bytes", ["a", "b"], (1, 2), [1, "a"], [], None, {"a": 1}, object(), "ä" * 5000]

DONE = {
    **{
        f"attribute {number}": (lambda span, value=value: span.set_attribute("key", value))
        for number, value in enumerate(VALUES)
    },
    "attribute without a name": lambda span: span.set_attribute("", 1),
    "attributes": lambda span: span.set_attributes({"a": 1, "b": [True]}),
    "attribute again": lambda span: [span.set_attribute("a", value) for value in (1, "two")],
    "attribute refused after one": lambda span: [span.set_attribute("a", value) for value in (1, {})],
    "status ok": lambda span: span.set_status(StatusCode.OK),
    "status error": lambda span: span.set_status(StatusCode.ERROR, "why"),
    "status as a whole": lambda span: span.set_status(Status(StatusCode.ERROR, "why")),
    "status as a whole with more": lambda span: span.set_status(Status(StatusCode.ERROR, "why"), "other"),
    "status ok, then error": lambda span: [span.set_status(StatusCode.OK), span.set_status(StatusCode.ERROR)],
    "status error, then ok": lambda span: [span.set_status(StatusCode.ERROR, "x"), span.set_status(StatusCode.OK)],
    "status error, then unset": lambda span: [span.set_status(StatusCode.ERROR), span.set_status(StatusCode.UNSET)],
    "status ok with words": lambda span: span.set_status(StatusCode.OK, "words"),
    "event": lambda span: span.add_event("happened"),
    "event with attributes": lambda span: span.add_event("happened", {"a": 1, "b": None, "c": ["x"]}, 5),
    "events": lambda span: [span.add_event("first"), span.add_event("second")],
    "link": lambda span: span.add_link(OTHER),
    "link with attributes": lambda span: span.add_link(OTHER, {"a": 1}),
    "link to nothing": lambda span: span.add_link(otel.INVALID_SPAN_CONTEXT),
    "link to nothing, with attributes": lambda span: span.add_link(otel.INVALID_SPAN_CONTEXT, {"a": 1}),
    "exception": record,
    "exception with attributes": lambda span: record(span, attributes={"a": 1}, escaped=True),
    "name": lambda span: span.update_name("other"),
    "end": lambda span: span.end(),
    "end twice": lambda span: [span.end(5), span.end(7)],
    "with": leaves,
    "with an error": raises_in,
}

AFTER = {
    "attribute": lambda span: span.set_attribute("late", 1),
    "attributes": lambda span: span.set_attributes({"late": 1}),
    "status": lambda span: span.set_status(StatusCode.ERROR, "late"),
    "event": lambda span: span.add_event("late"),
    "link": lambda span: span.add_link(OTHER),
    "exception": record,
    "name": lambda span: span.update_name("late"),
    "end": lambda span: span.end(7),
}


@pytest.mark.parametrize("do", DONE.values(), ids=DONE)
def test_what_is_done_to_a_span_makes_of_it_what_the_sdk_makes(do):
    """Attributes, status, events, links, exceptions, name, end and `with` do what they do to the SDK's span."""
    spans = sdk(), light()
    for span in spans:
        do(span)
    assert facts(spans[1]) == facts(spans[0])


@pytest.mark.parametrize("do", AFTER.values(), ids=AFTER)
def test_a_span_that_has_ended_stays_as_it_is(do):
    """Nothing that is done to a span after its end changes it."""
    spans = sdk(), light()
    for span in spans:
        span.set_attribute("early", 1)
        span.end(5)
        before = facts(span)
        do(span)
        assert facts(span) == before
        assert span.end_time == 5
    assert facts(spans[1]) == facts(spans[0])


def test_a_span_is_both_of_opentelemetrys_kinds():
    """What takes a span of OpenTelemetry's API or SDK takes a light one, and nests below it."""
    parent = light()
    child = light(above=parent)
    assert isinstance(child, otel.Span)
    assert isinstance(child, ReadableSpan)
    assert child.parent is parent.context
    assert parent.parent is None
    assert light(outer=OTHER).parent is OTHER
    assert (
        child.context
        == child.get_span_context()
        == SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(1))
    )
    assert repr(child) == "LightSpan('span', 0000000000000def)"


def test_a_span_can_be_shown():
    """`to_json`, and the counts of what the SDK drops, are there as they are on the SDK's span."""
    span = light()
    span.set_attribute("a", 1)
    span.add_event("happened", {"b": 2})
    span.add_link(OTHER)
    span.end()
    shown = span.to_json()
    assert '"a": 1' in shown
    assert '"happened"' in shown
    assert (span.dropped_attributes, span.dropped_events, span.dropped_links) == (0, 0, 0)
    assert (span.resource.attributes, span.instrumentation_scope) == ({}, None)


def test_the_attributes_cannot_be_changed_from_outside():
    """Whoever reads the attributes cannot write them."""
    span = light()
    with pytest.raises(TypeError):
        span.attributes["a"] = 1


def test_an_attribute_of_an_ended_span_can_be_replaced():
    """What redaction puts in the place of a text is there although the span has ended."""
    span = light()
    span.set_attribute("a", "secret")
    span.end()
    span.replace_attribute("a", "[redacted]")
    assert span.attributes["a"] == "[redacted]"
