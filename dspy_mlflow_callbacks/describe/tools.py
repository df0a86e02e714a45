"""Tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dspy_mlflow_callbacks.describe.content import Closing, Opening
from dspy_mlflow_callbacks.describe.payloads import class_to_json, is_exact, to_json
from dspy_mlflow_callbacks.events import CallEnd, CallKind, CallStart

RESULT_TYPE = "dspy.tool.result_type"


def name(kind: CallKind, instance: Any, inputs: Mapping[str, Any], parent: CallStart | None) -> str:
    """Return the tool's own name."""
    return str(instance.name)


def start(call: CallStart) -> Opening:
    """Describe the start of a tool's call; its arguments are the tool's own, whatever their names."""
    tool = call.instance
    return Opening(
        span_type="TOOL",
        inputs=call.inputs.get("kwargs", call.inputs),
        attributes={"dspy.tool.description": to_json(tool.desc), "dspy.tool.args": to_json(tool.args)},
    )


def end(call: CallStart, end: CallEnd) -> Closing:
    """Describe what a tool returned, and of what class it is where JSON cannot say."""
    outputs = end.outputs
    cls: Any = type(outputs)
    is_json = cls is not tuple and is_exact(outputs)
    return Closing(outputs=outputs, attributes={} if is_json else {RESULT_TYPE: class_to_json(cls)})
