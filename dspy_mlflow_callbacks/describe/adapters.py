"""Adapters: what is formatted for the LM and what is parsed from its answer."""

from __future__ import annotations

from dspy_mlflow_callbacks.describe.payloads import to_json
from dspy_mlflow_callbacks.events import CallEnd, CallKind, CallStart, SpanEnd, SpanEvent, SpanStart

_METHODS = {CallKind.ADAPTER_FORMAT: "format", CallKind.ADAPTER_PARSE: "parse"}


def start(call: CallStart) -> SpanStart:
    """Describe the start of an adapter's `format` or `parse`."""
    return SpanStart(
        name=call.name or f"{type(call.instance).__name__}.{_METHODS[call.kind]}",
        span_type="PARSER",
        inputs=to_json(call.inputs),
    )


def end(call: CallStart, end: CallEnd) -> SpanEnd:
    """Describe the messages that were formatted or the fields that were parsed.

    A failed parse says what it could not parse, also where the inputs are not recorded as such.
    """
    attributes = {}
    if end.exception is not None and call.kind is CallKind.ADAPTER_PARSE:
        attributes["dspy.adapter.raw_completion"] = to_json(call.inputs.get("completion"))
    return SpanEnd(outputs=to_json(end.outputs), attributes=attributes)


def fallback_event(failed: str, taking_over: str) -> SpanEvent:
    """Say on the Predict's span which adapter took over after a failed parse."""
    return SpanEvent(name="adapter_fallback", attributes={"from": failed, "to": taking_over})
