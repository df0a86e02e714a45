"""What a trace cost in sum."""

from __future__ import annotations

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
    stored, cost = total(trace, "mlflow.trace.tokenUsage"), cost_of(total(trace, "mlflow.trace.cost"))
    known = [node.cost_usd for node in nodes if node.cost_usd is not None]
    return Sums(
        trace_id=trace.info.trace_id,
        status=trace.info.state.value,
        spans=len(nodes),
        tokens=tokens_of(stored) if stored else sum(node.tokens for node in nodes),
        cost_usd=cost if cost is not None or not known else sum(known),
        latency_ms=tree.latency_ms,
    )
