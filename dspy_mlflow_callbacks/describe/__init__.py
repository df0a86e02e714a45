"""From a call to what its span says. Pure functions: one file per kind, one table for all."""

from __future__ import annotations

import functools
import importlib.metadata
import traceback
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import attrs
import dspy

from dspy_mlflow_callbacks.describe import (
    adapters,
    compiles,
    evaluations,
    examples,
    interpreters,
    lms,
    modules,
    tools,
    trials,
)
from dspy_mlflow_callbacks.describe.content import Capture, Closing, Opening
from dspy_mlflow_callbacks.describe.payloads import describe_value, encodable, to_json, word_to_json
from dspy_mlflow_callbacks.describe.signatures import FINGERPRINT, fingerprint_of, program_fingerprint, program_parts
from dspy_mlflow_callbacks.events import (
    CallEnd,
    CallKind,
    CallStart,
    SpanEnd,
    SpanEvent,
    SpanStart,
    new_span_end,
    new_span_start,
)

__all__ = [
    "EVERYTHING",
    "Capture",
    "describe_end",
    "describe_exception",
    "describe_start",
    "name_of",
    "program_fingerprint",
]

EVERYTHING = Capture()

_KINDS: dict[CallKind, ModuleType] = {
    CallKind.MODULE: modules,
    CallKind.LM: lms,
    CallKind.ADAPTER_FORMAT: adapters,
    CallKind.ADAPTER_PARSE: adapters,
    CallKind.TOOL: tools,
    CallKind.EVALUATE: evaluations,
    CallKind.EXAMPLE: examples,
    CallKind.INTERPRETER_EXECUTE: interpreters,
    CallKind.INTERPRETER_TOOL_CALL: interpreters,
    CallKind.INTERPRETER_STARTUP: interpreters,
    CallKind.INTERPRETER_SHUTDOWN: interpreters,
    CallKind.COMPILE: compiles,
    CallKind.TRIAL: trials,
}
_KIND_TEXTS = {kind: to_json(kind.value) for kind in CallKind}


def name_of(kind: CallKind, instance: Any, inputs: Mapping[str, Any], parent: CallStart | None) -> str:
    """Return the name of the span of a call of *instance* inside *parent*."""
    name: str = _KINDS[kind].name(kind, instance, inputs, parent)
    return encodable(name)  # it may come from the user: a tool's name, a key in a dict of modules


def describe_start(call: CallStart, capture: Capture = EVERYTHING) -> SpanStart:
    """Return what the span of *call* says as it opens."""
    start: Callable[[CallStart], Opening] = _KINDS[call.kind].start
    described = start(call)
    attributes = capture.attributes(described.attributes)
    if call.attributes:
        attributes = {**attributes, **{key: to_json(value) for key, value in call.attributes.items()}}
    return new_span_start(
        name=encodable(call.name),
        span_type=described.span_type,
        inputs=to_json(described.inputs) if capture.inputs_of(call.kind) else None,
        attributes={"dspy.kind": _KIND_TEXTS[call.kind], **attributes},
        later=_of_root(call, described.later) if call.is_root else described.later,
        level=call.level,
    )


def _of_root(call: CallStart, later: Callable[[], Mapping[str, str]] | None) -> Callable[[], Mapping[str, str]]:
    """Return what says later what only a root says, with what its span says later as any other."""
    program = program_parts(call.instance) if call.kind is CallKind.MODULE else None
    return functools.partial(_attributes_of_root, later, program)


def _attributes_of_root(
    later: Callable[[], Mapping[str, str]] | None, program: tuple[str, ...] | None
) -> Mapping[str, str]:
    attributes = {**_VERSIONS}
    if program is not None:
        attributes[FINGERPRINT] = word_to_json(fingerprint_of(program))
    return attributes if later is None else {**attributes, **later()}


def describe_end(call: CallStart, end: CallEnd, capture: Capture = EVERYTHING) -> SpanEnd:
    """Return what the span of *call* says as it closes."""
    describe: Callable[[CallStart, CallEnd], Closing] = _KINDS[call.kind].end
    described = describe(call, end)
    attributes = capture.attributes(described.attributes)
    if end.attributes:
        attributes = {**attributes, **{key: to_json(value) for key, value in end.attributes.items()}}
    if end.exception is not None:
        return _failed(call, describe_exception(end.exception, capture), end.exception, attributes)
    if described.later is not None:
        later = functools.partial(_end_later, call.kind, described.later, capture)
        return new_span_end(attributes=attributes, later=later)
    outputs = to_json(described.outputs) if capture.outputs_of(call.kind) else None
    return new_span_end(outputs=outputs, attributes=attributes, feedback=capture.feedback(described.feedback))


def _failed(call: CallStart, end: SpanEnd, exception: BaseException, attributes: Mapping[str, str]) -> SpanEnd:
    # Who interrupts an evaluation says nothing of the example.
    is_judged = call.kind is CallKind.EXAMPLE and isinstance(exception, Exception)
    return attrs.evolve(
        end, attributes=attributes, feedback=examples.failure(call, end.events[0]) if is_judged else None
    )


def _end_later(kind: CallKind, later: Callable[[], Closing], capture: Capture) -> SpanEnd:
    described = later()
    outputs = to_json(described.outputs) if capture.outputs_of(kind) else None
    return new_span_end(outputs=outputs, attributes=capture.attributes(described.attributes))


def describe_exception(exception: BaseException, capture: Capture = EVERYTHING) -> SpanEnd:
    """Return the end of a call that raised: status and OpenTelemetry's exception event.

    What an exception says may quote any content, so it is left out with any of it: its type and the lines of code stay.
    """
    name = type(exception).__name__
    message = _message(exception) if capture.is_everything else ""
    event = SpanEvent(
        name="exception",
        attributes={
            "exception.type": name,
            "exception.message": message,
            "exception.stacktrace": _stacktrace(exception) if capture.is_everything else _lines(exception),
        },
    )
    return SpanEnd(events=(event,), error=f"{name}: {message}" if message else name)


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
        return _lines(exception)
    return encodable(text)


def _lines(exception: BaseException) -> str:
    return encodable("".join(traceback.format_tb(exception.__traceback__)))


_VERSIONS = {
    "dspy.version": to_json(dspy.__version__),
    "mlflow.version": to_json(importlib.metadata.version("mlflow")),
    "dspy_mlflow_callbacks.version": to_json(importlib.metadata.version("dspy-mlflow-callbacks")),
}
