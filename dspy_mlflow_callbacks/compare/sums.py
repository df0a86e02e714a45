"""What a trace cost in sum."""

from __future__ import annotations

from collections.abc import Iterable

import attrs
from mlflow.entities import Trace

from dspy_mlflow_callbacks.compare.tree import Node, cost_of, tokens_of, total


@attrs.frozen(kw_only=True)
class Sums:
    """A trace in sum.

    Attributes:
        trace_id: Its id.
        status: `OK` or `ERROR`.
        spans: How many it has.
        tokens: All tokens that were billed.
        cost_usd: US dollars; None where unknown.
        latency_ms: Milliseconds from the root's start to its end.
    """

    trace_id: str
    status: str
    spans: int
    tokens: int
    cost_usd: float | None
    latency_ms: float


def sums_of(trace: Trace, tree: Node) -> Sums:
    """Return a trace in sum: as the store has added it up, or else added up from its spans."""
    nodes = list(tree.walk())
    stored = total(trace, "mlflow.trace.tokenUsage")
    return Sums(
        trace_id=trace.info.trace_id,
        status=trace.info.state.value,
        spans=len(nodes),
        tokens=tokens_of(stored) if stored else sum(node.tokens for node in nodes),
        cost_usd=_cost(trace, nodes),
        latency_ms=tree.latency_ms,
    )


def _cost(trace: Trace, nodes: Iterable[Node]) -> float | None:
    stored = cost_of(total(trace, "mlflow.trace.cost"))
    if stored is not None:
        return stored
    known = [cost for node in nodes if (cost := node.cost_usd) is not None]
    return sum(known) if known else None
