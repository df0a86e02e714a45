"""A stored trace in one row, and as a tree of plain values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs
from mlflow.entities import Span, Trace

from dspy_mlflow_callbacks.compare.tree import cost_of, tokens_of, total
from dspy_mlflow_callbacks.trace_text import spans_below

_NAME = "mlflow.traceName"
_LMS = frozenset({"CHAT_MODEL", "LLM"})


@attrs.frozen(kw_only=True)
class Facts:
    """A trace in one row.

    Attributes:
        trace_id: Its id.
        experiment_id: The experiment that it is in.
        time_ms: When it began, in milliseconds since 1970.
        name: What it is called.
        status: `OK`, `ERROR` or `IN_PROGRESS`.
        duration_ms: Milliseconds that it took; None while it has not ended.
        tokens: Tokens that were billed.
        cost_usd: US dollars; None where unknown.
        errors: How many of its spans failed; None where its spans were not read.
        tags: Its tags, but for MLflow's own.
    """

    trace_id: str
    experiment_id: str
    time_ms: int
    name: str
    status: str
    duration_ms: int | None
    tokens: int
    cost_usd: float | None
    errors: int | None
    tags: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name as JSON values."""
        return attrs.asdict(self)


def facts_of(trace: Trace) -> Facts:
    """Return a trace in one row; tokens and cost are as the store has added them up."""
    info = trace.info
    return Facts(
        trace_id=info.trace_id,
        experiment_id=str(info.experiment_id),
        time_ms=info.request_time,
        name=info.tags.get(_NAME, ""),
        status=info.state.value,
        duration_ms=info.execution_duration,
        tokens=tokens_of(total(trace, "mlflow.trace.tokenUsage")),
        cost_usd=cost_of(total(trace, "mlflow.trace.cost")),
        errors=sum(map(has_failed, trace.data.spans)) if trace.data.spans else None,
        tags={key: value for key, value in info.tags.items() if not key.startswith("mlflow.")},
    )


def has_failed(span: Span) -> bool:
    """Return whether a span ended with an error."""
    return bool(span.status.status_code.value == "ERROR")


def tree_of(trace: Trace, *, with_prompts: bool) -> list[dict[str, Any]]:
    """Return the spans of a trace as JSON values, each with those below it under `children`."""
    below = spans_below(trace)

    def node(span: Span) -> dict[str, Any]:
        said = {"messages": messages_of(span), "answers": answers_of(span)} if with_prompts and is_lm(span) else {}
        return {**_said_by(span), **said, "children": [node(child) for child in below.get(span.span_id, ())]}

    return [node(root) for root in below.get(None, ())]


def _said_by(span: Span) -> dict[str, Any]:
    tokens = span.get_attribute("mlflow.chat.tokenUsage")
    ended = span.end_time_ns is not None
    return {
        "span_id": span.span_id,
        "name": span.name,
        "type": span.span_type,
        "status": span.status.status_code.value,
        "error": span.status.description if has_failed(span) else None,
        "time_ns": span.start_time_ns,
        "duration_ms": (span.end_time_ns - span.start_time_ns) / 1e6 if ended else None,
        "tokens": tokens_of(tokens),
        "cost_usd": cost_of(span.get_attribute("mlflow.llm.cost")),
        "cache_hit": bool(span.get_attribute("dspy.lm.cache_hit")),
    }


def is_lm(span: Span) -> bool:
    """Return whether a span is an LM's call."""
    return span.span_type in _LMS


def messages_of(span: Span) -> list[dict[str, Any]]:
    """Return what an LM was asked, each message with `role` and `content`; of a text model its prompt as a user's."""
    inputs = span.inputs if isinstance(span.inputs, dict) else {}
    messages = inputs.get("messages")
    if isinstance(messages, list) and messages:
        return [message if isinstance(message, dict) else {"role": "", "content": message} for message in messages]
    return [{"role": "user", "content": inputs["prompt"]}] if inputs.get("prompt") is not None else []


def answers_of(span: Span) -> list[Any]:
    """Return what an LM answered: a message with `content`, and tool calls where there are any, for each completion."""
    outputs = span.outputs
    choices = outputs.get("choices") if isinstance(outputs, dict) else outputs
    if isinstance(choices, list):
        return [each.get("message", each.get("text", each)) if isinstance(each, dict) else each for each in choices]
    return [] if outputs is None else [outputs]


def text_of(content: Any) -> str:
    """Return what a message or answer says: its text, or else its JSON."""
    if isinstance(content, dict) and isinstance(content.get("content"), str) and not content.get("tool_calls"):
        return str(content["content"])
    return content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False, default=str)
