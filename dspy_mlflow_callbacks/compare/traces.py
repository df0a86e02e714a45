"""Comparing two traces span by span."""

from __future__ import annotations

from typing import Any

import attrs
from mlflow.entities import Trace

from dspy_mlflow_callbacks.compare.align import Pair, align
from dspy_mlflow_callbacks.compare.checks import Found
from dspy_mlflow_callbacks.compare.document import Diff, Document, Heading, Line, Part, Table, diff
from dspy_mlflow_callbacks.compare.pages import stored_trace
from dspy_mlflow_callbacks.compare.report import Comparison
from dspy_mlflow_callbacks.compare.scores import scores_of
from dspy_mlflow_callbacks.compare.sums import Sums, sums_of
from dspy_mlflow_callbacks.compare.tree import Node, tree_of

_MARKS = {"same": "", "moved": "moved", "added": "added", "removed": "removed"}
_HEAD = ("span", "", "status", "tokens", "cost, US dollars", "latency, ms")


def compare_traces(a: Trace | str, b: Trace | str) -> TraceComparison:
    """Compare two traces span by span.

    Spans are aligned by their path in the program and their order, whatever the root's and the models' names are;
    siblings of one name by a sequence alignment that prefers equal inputs and outputs.

    Args:
        a: The baseline: a trace, or the id of one in the store that `mlflow.set_tracking_uri` names.
        b: The candidate, likewise.

    Raises:
        TypeError: if an argument is neither.
        ValueError: if there is no such trace, or if it is not whole; it says what to do.

    Example:
        >>> comparison = compare_traces("tr-1f0c...", "tr-9b2e...")
        >>> print(comparison.to_markdown())
    """
    first, second = stored_trace(a), stored_trace(b)
    tree_a, tree_b = tree_of(first), tree_of(second)
    return TraceComparison(
        a=sums_of(first, tree_a),
        b=sums_of(second, tree_b),
        spans=tuple(map(_change, align(tree_a, tree_b))),
        scores=(scores_of(first), scores_of(second)),
    )


@attrs.frozen(kw_only=True)
class SpanChange:
    """What became of a span.

    Attributes:
        kind: `same`, `moved` (among other siblings), `added` or `removed`.
        name: Its name, the candidate's where both have it.
        depth: How many spans it stands below.
        status: Its status in baseline and candidate, None where it is not.
        tokens: Tokens that it billed.
        cost_usd: US dollars that it cost; None where unknown, too.
        latency_ms: Milliseconds that it took.
        prompt: The diff of an LM's messages; empty where they are equal, as are the others.
        inputs: The diff of another span's inputs.
        outputs: The diff of its outputs.
    """

    kind: str
    name: str
    depth: int
    status: tuple[str | None, str | None]
    tokens: tuple[int | None, int | None]
    cost_usd: tuple[float | None, float | None]
    latency_ms: tuple[float | None, float | None]
    prompt: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@attrs.frozen(kw_only=True)
class TraceComparison(Comparison):
    """Two traces side by side: what `compare_traces` returns.

    Attributes:
        a: The baseline in sum.
        b: The candidate in sum.
        spans: What became of each span, in the baseline's order.
        scores: Scores of both by name: MLflow feedback.
    """

    a: Sums
    b: Sums
    spans: tuple[SpanChange, ...]
    scores: tuple[dict[str, float], dict[str, float]]

    def to_dict(self) -> dict[str, Any]:
        """Return all that was found as JSON values: `a`, `b`, `spans` and `scores`."""
        return attrs.asdict(self)

    def _found(self) -> Found:
        costs = (self.a.cost_usd, self.b.cost_usd)
        return Found(
            cost_usd=None if costs[0] is None or costs[1] is None else (costs[0], costs[1]),
            latency_ms=(self.a.latency_ms, self.b.latency_ms),
            scores=self.scores[1],
            structure_changes=sum(each.kind != "same" for each in self.spans),
        )

    def _document(self) -> Document:
        sums = (_row("all spans", "", self._sums("status", "tokens", "cost_usd", "latency_ms")),)
        return [
            Heading(f"{self.a.trace_id} and {self.b.trace_id}"),
            Line(self._structure()),
            Table(_HEAD, tuple(map(_span_row, self.spans)) + sums),
            *self._score_parts(),
            *(part for each in self.spans for part in _diffs(each)),
        ]

    def _sums(self, *names: str) -> dict[str, Any]:
        return {name: (getattr(self.a, name), getattr(self.b, name)) for name in names}

    def _structure(self) -> str:
        counts = {kind: sum(each.kind == kind for each in self.spans) for kind in _MARKS}
        changes = ", ".join(f"{counts[kind]} {kind}" for kind in ("added", "removed", "moved") if counts[kind])
        return f"Structure: {changes or 'the same'}; {counts['same']} spans in their place."

    def _score_parts(self) -> list[Part]:
        first, second = self.scores
        names = sorted({*first, *second})
        rows = tuple((name, _number(first.get(name), ".6g"), _number(second.get(name), ".6g")) for name in names)
        return [Table(("score", "baseline", "candidate"), rows)] if rows else []


def _change(pair: Pair) -> SpanChange:
    a, b = pair.a, pair.b
    is_lm = any(node is not None and node.is_lm for node in (a, b))
    inputs = _diff(a, b, "inputs")
    return SpanChange(
        kind=pair.kind,
        name=(b or a).name,  # type: ignore[union-attr]  # one of them there is
        depth=pair.depth,
        status=_both_of(a, b, "status"),
        tokens=_both_of(a, b, "tokens"),
        cost_usd=_both_of(a, b, "cost_usd"),
        latency_ms=_both_of(a, b, "latency_ms"),
        prompt=inputs if is_lm else (),
        inputs=() if is_lm else inputs,
        outputs=_diff(a, b, "outputs"),
    )


def _both_of(a: Node | None, b: Node | None, name: str) -> tuple[Any, Any]:
    return getattr(a, name, None), getattr(b, name, None)


def _diff(a: Node | None, b: Node | None, name: str) -> tuple[str, ...]:
    return diff(getattr(a, name), getattr(b, name)) if a is not None and b is not None else ()


def _span_row(each: SpanChange) -> tuple[str, ...]:
    return _row("· " * each.depth + each.name, _MARKS[each.kind], attrs.asdict(each, recurse=False))


def _row(name: str, mark: str, facts: dict[str, Any]) -> tuple[str, ...]:
    formats = {"status": "", "tokens": ",", "cost_usd": ".6f", "latency_ms": ",.1f"}
    return (name, mark, *(_both(facts[fact], form) for fact, form in formats.items()))


def _both(values: tuple[Any, Any], form: str) -> str:
    first, second = (_number(value, form) for value in values)
    return first if first == second else f"{first or 'none'} → {second or 'none'}"


def _number(value: Any, form: str) -> str:
    return "" if value is None else format(value, form)


def _diffs(each: SpanChange) -> list[Part]:
    said = (("prompt", each.prompt), ("inputs", each.inputs), ("outputs", each.outputs))
    return [part for what, lines in said if lines for part in (Line(f"{each.name}: {what} differ"), Diff(lines))]
