"""From a call to what its span says. Pure functions: one file per kind, one table for all."""

from __future__ import annotations

import importlib.metadata
import traceback
from collections.abc import Callable
from types import ModuleType

import attrs
import dspy

from dspy_mlflow_callbacks.describe import adapters, compiles, evaluations, interpreters, lms, modules, tools
from dspy_mlflow_callbacks.describe.payloads import describe_value, encodable, to_json
from dspy_mlflow_callbacks.describe.signatures import fingerprint_attributes
from dspy_mlflow_callbacks.events import CallEnd, CallKind, CallStart, SpanEnd, SpanEvent, SpanStart

__all__ = ["describe_end", "describe_exception", "describe_start"]

_KINDS: dict[CallKind, ModuleType] = {
    CallKind.MODULE: modules,
    CallKind.LM: lms,
    CallKind.ADAPTER_FORMAT: adapters,
    CallKind.ADAPTER_PARSE: adapters,
    CallKind.TOOL: tools,
    CallKind.EVALUATE: evaluations,
    CallKind.INTERPRETER_EXECUTE: interpreters,
    CallKind.INTERPRETER_TOOL_CALL: interpreters,
    CallKind.INTERPRETER_STARTUP: interpreters,
    CallKind.INTERPRETER_SHUTDOWN: interpreters,
    CallKind.COMPILE: compiles,
}


def describe_start(call: CallStart) -> SpanStart:
    """Return what the span of *call* says as it opens."""
    start: Callable[[CallStart], SpanStart] = _KINDS[call.kind].start
    described = start(call)
    attributes = {"dspy.kind": f'"{call.kind.value}"', **described.attributes}
    attributes.update((key, to_json(value)) for key, value in call.attributes.items())
    if call.is_root:
        attributes = {**_VERSIONS, **_fingerprint(call), **attributes}
    # A name may come from the user: a tool's name, a key in a dict of modules.
    return attrs.evolve(described, name=encodable(described.name), attributes=attributes, level=call.level)


def describe_end(call: CallStart, end: CallEnd) -> SpanEnd:
    """Return what the span of *call* says as it closes."""
    describe: Callable[[CallStart, CallEnd], SpanEnd] = _KINDS[call.kind].end
    described = describe(call, end)
    if end.exception is None and not end.attributes:
        return described
    attributes = {**described.attributes, **{key: to_json(value) for key, value in end.attributes.items()}}
    outcome = described if end.exception is None else describe_exception(end.exception)
    return attrs.evolve(outcome, attributes=attributes)


def describe_exception(exception: BaseException) -> SpanEnd:
    """Return the end of a call that raised: status and OpenTelemetry's exception event."""
    name, message = type(exception).__name__, _message(exception)
    event = SpanEvent(
        name="exception",
        attributes={
            "exception.type": name,
            "exception.message": message,
            "exception.stacktrace": _stacktrace(exception),
        },
    )
    return SpanEnd(events=(event,), error=f"{name}: {message}")


def _message(exception: BaseException) -> str:
    try:
        message = str(exception)
    except Exception:  # noqa: BLE001  (a raising __str__ may raise anything)
        message = describe_value(exception)
    return encodable(message)


def _stacktrace(exception: BaseException) -> str:
    try:
        text = "".join(traceback.format_exception(exception))
    except Exception:  # noqa: BLE001  (a raising __str__ in the chain)
        text = "".join(traceback.format_tb(exception.__traceback__))
    return encodable(text)


def _fingerprint(call: CallStart) -> dict[str, str]:
    return fingerprint_attributes(call.instance) if call.kind is CallKind.MODULE else {}


_VERSIONS = {
    "dspy.version": to_json(dspy.__version__),
    "mlflow.version": to_json(importlib.metadata.version("mlflow")),
    "dspy_mlflow_callbacks.version": to_json(importlib.metadata.version("dspy-mlflow-callbacks")),
}
