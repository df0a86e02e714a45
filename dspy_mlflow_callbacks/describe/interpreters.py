"""Code interpreters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dspy_mlflow_callbacks.describe.content import Closing, Opening
from dspy_mlflow_callbacks.describe.payloads import to_json
from dspy_mlflow_callbacks.events import CallEnd, CallKind, CallStart

_SPANS = {
    CallKind.INTERPRETER_EXECUTE: ("execute", "TOOL"),
    CallKind.INTERPRETER_TOOL_CALL: ("tool_call", "TOOL"),
    CallKind.INTERPRETER_STARTUP: ("startup", "TASK"),
    CallKind.INTERPRETER_SHUTDOWN: ("shutdown", "TASK"),
}


def name(kind: CallKind, instance: Any, inputs: Mapping[str, Any], parent: CallStart | None) -> str:
    """Return the operation's name; code that calls a tool is named after the tool."""
    operation, _ = _SPANS[kind]
    tool = inputs.get("tool_name")
    return operation if tool is None else f"{operation} {tool}"


def start(call: CallStart) -> Opening:
    """Describe the start of an interpreter's operation."""
    _, span_type = _SPANS[call.kind]
    return Opening(
        span_type=span_type,
        inputs=call.inputs,
        attributes={"dspy.class": to_json(type(call.instance))},
    )


def end(call: CallStart, end: CallEnd) -> Closing:
    """Describe what an operation gave: for code its final output, or its value or standard output."""
    outputs = _execution(end.outputs) if call.kind is CallKind.INTERPRETER_EXECUTE else end.outputs
    return Closing(outputs=outputs)


def _execution(outputs: Any) -> Any:
    """Tell the answer that code submitted (`FinalOutput`) from what it printed or evaluated to."""
    if type(outputs).__name__ == "FinalOutput":
        return {"final_output": outputs.output}
    return {"stdout": outputs} if isinstance(outputs, str) else {"value": outputs}
