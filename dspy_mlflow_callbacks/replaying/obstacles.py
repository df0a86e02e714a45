"""What stands in the way of a replay, found before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dspy

from dspy_mlflow_callbacks.events import CallKind
from dspy_mlflow_callbacks.replaying.answers import problem_of_lm, problem_of_tool
from dspy_mlflow_callbacks.replaying.marks import CHANGES, mark_in
from dspy_mlflow_callbacks.replaying.recording import Recorded, Recording
from dspy_mlflow_callbacks.replaying.tools import returns_of, tools_of

_PREDICT = "dspy.demos"  # every span of a Predict has it, and no other


def obstacles(
    recording: Recording, program: Any, *, mode: str, tools: str, has_inputs: bool, fork: Recorded | None
) -> list[str]:
    """Return why *recording* cannot be replayed with *program*, each with the span and what to do."""
    found = [] if has_inputs else [*_of_inputs(recording.root)]
    if tools == "recorded":
        found += _of_tools(recording, program)
    needed = [call for call in recording.calls(CallKind.LM) if not (tools == "recorded" and is_below_tool(call))]
    if fork is not None:
        needed = [call for call in needed if call.start_ns < fork.start_ns]
    found += [f"{call.said}: {problem}." for call in needed if (problem := problem_of_lm(call))]
    if mode == "strict":
        found += [f"{call.said}: {problem}." for call in needed if (problem := _cannot_be_compared(call))]
    return [*found, *_missing_lms(recording)]


def _of_inputs(root: Recorded) -> Iterator[str]:
    remedy = "or give the program's inputs with inputs="
    if not isinstance(root.inputs, dict):
        yield f"{root.said}: its inputs were not recorded; record them with `capture_inputs` on, {remedy}."
        return
    for name, value in root.inputs.items():
        mark = mark_in(value)
        if mark is not None:
            yield f"{root.said}: its input {name!r} {CHANGES[mark]}, {remedy}."


def _of_tools(recording: Recording, program: Any) -> Iterator[str]:
    tools = tools_of(program)
    for call in recording.calls(CallKind.TOOL):
        if not is_below_tool(call):
            returns = returns_of(tools[call.name]) if call.name in tools else None
            problem = problem_of_tool(call, returns)
            if problem is not None:
                yield f"{call.said}: {problem}."


def _cannot_be_compared(call: Recorded) -> str | None:
    remedy = "or use mode='lenient', which serves it by its place and turn"
    if mark_in(call.inputs) == "withheld":
        return f"what it was asked {CHANGES['withheld']}, {remedy}"
    if call.inputs is None:
        return f"its messages were not recorded; record it with `capture_inputs` and `capture_messages` on, {remedy}"
    return None


def is_below_tool(call: Recorded) -> bool:
    """Return whether a tool made a call: where its result is recorded, the call is not made again."""
    above = call.parent
    while above is not None and above.kind is not CallKind.TOOL:
        above = above.parent
    return above is not None


def _missing_lms(recording: Recording) -> Iterator[str]:
    for call in recording.calls(CallKind.MODULE):
        has_none = not any(below.kind is CallKind.LM for below in call.calls())
        if has_none and _PREDICT in call.attributes and call.error is None:
            yield f"{call.said}: its LM call has no span; record it without an `events`, `include` or `exclude` option \
that leaves LM calls out."


def other_program(recording: Recording, program: Any, mode: str) -> str | None:
    """Return what says that *program* is not the one that was recorded; None where it may be."""
    name = type(program).__name__
    if not isinstance(program, dspy.Module) or name == recording.root.name or mode != "strict":
        return None
    return (
        f"it is a trace of {recording.root.name}, and the program given is a {name}: give the program that was "
        "recorded, or use mode='lenient' to run another one on its answers."
    )
