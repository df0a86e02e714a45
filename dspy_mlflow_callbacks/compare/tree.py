"""A stored trace as a tree of what a comparison needs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
from mlflow.entities import Span, Trace

_LM = "LM"


@attrs.frozen(kw_only=True)
class Node:
    """A span with what is below it; what it holds is read when it is asked for, since many are only counted.

    Attributes:
        span: The span.
        key: What aligns it: its type and its path in the program, without the root's name; an LM is one by any model.
        children: The spans below it, in the order in which they started.
    """

    span: Span
    key: str
    children: tuple[Node, ...] = ()

    @property
    def name(self) -> str:
        """The span's name; below the root's module it begins with the root's name."""
        return str(self.span.name)

    @property
    def inputs(self) -> Any:
        """Its inputs, as JSON values."""
        return self.span.inputs

    @property
    def outputs(self) -> Any:
        """Its outputs, as JSON values."""
        return self.span.outputs

    @property
    def status(self) -> str:
        """`OK`, `ERROR` or `UNSET`."""
        return str(self.span.status.status_code.value)

    @property
    def tokens(self) -> int:
        """Tokens that it billed itself."""
        return tokens_of(self.span.get_attribute("mlflow.chat.tokenUsage"))

    @property
    def cost_usd(self) -> float | None:
        """US dollars that it cost itself; None where unknown."""
        return cost_of(self.span.get_attribute("mlflow.llm.cost"))

    @property
    def latency_ms(self) -> float:
        """Milliseconds from start to end; 0 of a span that never ended."""
        return float(((self.span.end_time_ns or self.span.start_time_ns) - self.span.start_time_ns) / 1e6)

    @property
    def is_lm(self) -> bool:
        """Whether its inputs are a prompt."""
        return self.key == _LM

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
    children = tuple(_node(child, root_name, below) for child in below.get(span.span_id, ()))
    return Node(span=span, key=_key(span, root_name), children=children)


def _key(span: Span, root_name: str) -> str:
    """Return what a span has in common with the same one of another version, whose root or model may be another."""
    span_type = span.span_type
    if span_type in {"CHAT_MODEL", "LLM"}:
        return _LM
    path = "." + span.name[len(root_name) + 1 :] if f"{span.name}.".startswith(f"{root_name}.") else span.name
    return f"{span_type} {path}"


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
