"""Adapters: what is formatted for the LM and what is parsed from its answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dspy

from dspy_mlflow_callbacks.describe.content import RAW_COMPLETION, Closing, Opening
from dspy_mlflow_callbacks.describe.payloads import plain_example, signature_text, to_json
from dspy_mlflow_callbacks.events import CallEnd, CallKind, CallStart, SpanEvent

_METHODS = {CallKind.ADAPTER_FORMAT: "format", CallKind.ADAPTER_PARSE: "parse"}
_SIGNATURE = type(dspy.Signature)


def name(kind: CallKind, instance: Any, inputs: Mapping[str, Any], parent: CallStart | None) -> str:
    """Return the adapter's class with the method's name."""
    return f"{type(instance).__name__}.{_METHODS[kind]}"


def start(call: CallStart) -> Opening:
    """Describe the start of an adapter's `format` or `parse`."""
    return Opening(span_type="PARSER", inputs=_plain(call.inputs))


def _plain(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return *inputs* with its signature and demos as `to_json` shows them: what is plain is written much faster."""
    plain = dict(inputs)
    signature, demos = plain.get("signature"), plain.get("demos")
    if isinstance(signature, _SIGNATURE):
        plain["signature"] = signature_text(signature)
    if type(demos) is list:
        plain["demos"] = [plain_example(demo) for demo in demos]
    return plain


def end(call: CallStart, end: CallEnd) -> Closing:
    """Describe the messages that were formatted or the fields that were parsed.

    A failed parse says what it could not parse, also where the inputs are not recorded as such.
    """
    attributes = {}
    if end.exception is not None and call.kind is CallKind.ADAPTER_PARSE:
        attributes[RAW_COMPLETION] = to_json(call.inputs.get("completion"))
    return Closing(outputs=end.outputs, attributes=attributes)


def fallback_event(failed: str, taking_over: str) -> SpanEvent:
    """Say on the Predict's span which adapter took over after a failed parse."""
    return SpanEvent(name="adapter_fallback", attributes={"from": failed, "to": taking_over})
