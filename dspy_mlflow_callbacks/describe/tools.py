"""Tools."""

from __future__ import annotations

from dspy_mlflow_callbacks.describe.payloads import to_json
from dspy_mlflow_callbacks.events import CallEnd, CallStart, SpanEnd, SpanStart


def start(call: CallStart) -> SpanStart:
    """Describe the start of a tool's call; its arguments are the tool's own, whatever their names."""
    tool = call.instance
    return SpanStart(
        name=call.name or str(tool.name),
        span_type="TOOL",
        inputs=to_json(call.inputs.get("kwargs", call.inputs)),
        attributes={"dspy.tool.description": to_json(tool.desc), "dspy.tool.args": to_json(tool.args)},
    )


def end(call: CallStart, end: CallEnd) -> SpanEnd:
    """Describe what a tool returned."""
    return SpanEnd(outputs=to_json(end.outputs))
