"""A stored trace as a tree of what a comparison needs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
from mlflow.entities import Span, Trace


@attrs.frozen(kw_only=True)
class Node:
    """A span.

    Attributes:
        name: The span's name; below the root's module it begins with the root's name.
        key: What aligns it: its kind and its path in the program, without the root's name; an LM is one by any model.
        inputs: Its inputs, as JSON values.
        outputs: Its outputs, as JSON values.
        status: `OK`, `ERROR` or `UNSET`.
        tokens: Tokens that it billed itself.
        cost_usd: US dollars that it cost itself; None where unknown.
        latency_ms: Milliseconds from start to end.
        is_lm: Whether its inputs are a prompt.
        children: The spans below it, in the order in which they started.
    """

    name: str
    key: str
    inputs: Any
    outputs: Any
    status: str
    tokens: int
    cost_usd: float | None
    latency_ms: float
    is_lm: bool
    children: tuple[Node, ...] = ()

    def structure(self) -> str:
        """Return one text for the shape of the tree: equal for equal structures."""
        return json.dumps(_shape(self))

    def walk(self) -> Iterator[Node]:
        """Yield the span and all below it, each before its children."""
        yield self
        for child in self.children:
            yield from child.walk()


def _shape(node: Node) -> list[Any]:
    return [node.key, *map(_shape, node.children)]


def root_span(trace: Trace) -> Span:
    """Return the root of a trace.

    Raises:
        ValueError: if the trace has no ended root; it says what to do.
    """
    roots = [span for span in trace.data.spans if span.parent_id is None]
    if len(roots) != 1 or roots[0].end_time_ns is None or trace.info.state.value == "IN_PROGRESS":
        message = (
            f"trace {trace.info.trace_id} is not whole ({len(roots)} roots, {len(trace.data.spans)} spans, state "
            f"{trace.info.state.value}): wait until its program has ended and call dspy_mlflow_callbacks.flush() "
            "there; if its process was killed, run it again"
        )
        raise ValueError(message)
    return roots[0]


def tree_of(trace: Trace) -> Node:
    """Return the tree of a whole trace.

    Raises:
        ValueError: as `root_span` does.
    """
    root = root_span(trace)
    below: dict[str | None, list[Span]] = {}
    for span in sorted(trace.data.spans, key=lambda span: (span.start_time_ns, span.span_id)):
        below.setdefault(span.parent_id, []).append(span)
    return _node(root, root.name, below)


def _node(span: Span, root_name: str, below: Mapping[str | None, list[Span]]) -> Node:
    is_lm = span.span_type in {"CHAT_MODEL", "LLM"}
    return Node(
        name=span.name,
        key=_key(span, root_name, is_lm=is_lm),
        inputs=span.inputs,
        outputs=span.outputs,
        status=span.status.status_code.value,
        tokens=tokens_of(span.get_attribute("mlflow.chat.tokenUsage")),
        cost_usd=cost_of(span.get_attribute("mlflow.llm.cost")),
        latency_ms=milliseconds(span),
        is_lm=is_lm,
        children=tuple(_node(child, root_name, below) for child in below.get(span.span_id, ())),
    )


def _key(span: Span, root_name: str, *, is_lm: bool) -> str:
    """Return what a span has in common with the same one of another version, whose root or model may be another."""
    if is_lm:
        return "LM"
    path = "." + span.name[len(root_name) + 1 :] if f"{span.name}.".startswith(f"{root_name}.") else span.name
    return f"{span.span_type} {path}"


def milliseconds(span: Span) -> float:
    """Return the milliseconds from start to end; 0 of a span that never ended."""
    return float(((span.end_time_ns or span.start_time_ns) - span.start_time_ns) / 1e6)


def tokens_of(usage: Mapping[str, Any] | None) -> int:
    """Return the total of MLflow's token usage."""
    return int((usage or {}).get("total_tokens", 0))


def cost_of(cost: Mapping[str, Any] | None) -> float | None:
    """Return the US dollars of MLflow's cost; None where unknown."""
    return float(cost["total_cost"]) if cost and "total_cost" in cost else None


def total(trace: Trace, key: str) -> dict[str, Any] | None:
    """Return what the store has added up for a trace under a key of its metadata."""
    text = trace.info.trace_metadata.get(key)
    return json.loads(text) if text else None


def digest(value: Any) -> str:
    """Return 16 hexadecimal digits for a JSON value, whatever the order of its names."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def brief(value: Any, limit: int = 160) -> str:
    """Return a value as one line of JSON, cut to *limit* characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
