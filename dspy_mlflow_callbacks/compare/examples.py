"""What is kept of each trace of a version: numbers and digests, and no spans."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import attrs
from mlflow.entities import Trace

from dspy_mlflow_callbacks.compare.scores import scores_of
from dspy_mlflow_callbacks.compare.selection import Query
from dspy_mlflow_callbacks.compare.sums import Sums, sums_of
from dspy_mlflow_callbacks.compare.tree import brief, digest, tree_of


@attrs.frozen(kw_only=True)
class Example:
    """A trace.

    Attributes:
        sums: The trace in sum.
        inputs: A digest of the root's inputs.
        outputs: A digest of its outputs.
        structure: A digest of the tree's structure.
        inputs_text: The beginning of its inputs.
        outputs_text: The beginning of its outputs.
        scores: Scores by name.
    """

    sums: Sums
    inputs: str
    outputs: str
    structure: str
    inputs_text: str
    outputs_text: str
    scores: dict[str, float]


@attrs.define
class Versions:
    """The traces of two versions as they are read.

    Attributes:
        sides: Those of the baseline and of the candidate.
        incomplete: How many traces were passed over because they have not ended.
    """

    sides: tuple[list[Example], list[Example]] = attrs.field(factory=lambda: ([], []))
    incomplete: int = 0

    def add(self, trace: Trace, query: Query) -> None:
        """Keep what is needed of a trace, if it is of one of the versions."""
        try:
            side = query.side(trace)
            if side is not None:
                self.sides[side].append(example_of(trace))
        except ValueError:  # it is not whole
            self.incomplete += 1


def example_of(trace: Trace) -> Example:
    """Return what is needed of a trace.

    Raises:
        ValueError: if it is not whole.
    """
    tree = tree_of(trace)
    return Example(
        sums=sums_of(trace, tree),
        inputs=digest(tree.inputs),
        outputs=digest(tree.outputs),
        structure=digest(tree.structure()),
        inputs_text=brief(tree.inputs),
        outputs_text=brief(tree.outputs),
        scores=scores_of(trace),
    )


@attrs.frozen(kw_only=True)
class Matched:
    """Traces of two versions, matched by their roots' inputs.

    Attributes:
        pairs: Baseline and candidate of equal inputs.
        only_baseline: How many inputs' traces only the baseline has.
        only_candidate: How many only the candidate has.
        repeated: How many inputs were given more than once to a version; they are matched in the order of time.
    """

    pairs: list[tuple[Example, Example]]
    only_baseline: int
    only_candidate: int
    repeated: int


def matched(baseline: Sequence[Example], candidate: Sequence[Example]) -> Matched:
    """Match traces by inputs, repeated ones the first with the first; what is left over is in one version only."""
    waiting: dict[str, list[Example]] = {}
    for each in reversed(candidate):
        waiting.setdefault(each.inputs, []).append(each)
    pairs = [(each, waiting[each.inputs].pop()) for each in baseline if waiting.get(each.inputs)]
    repeated = {name for side in (baseline, candidate) for name, count in _counts(side).items() if count > 1}
    return Matched(
        pairs=pairs,
        only_baseline=len(baseline) - len(pairs),
        only_candidate=len(candidate) - len(pairs),
        repeated=len(repeated),
    )


def _counts(examples: Iterable[Example]) -> dict[str, int]:
    return Counter(each.inputs for each in examples)


def has_changed(pair: tuple[Example, Example]) -> bool:
    """Return whether status, structure, outputs or a score differ."""
    return any(extent(pair)[:4])


def extent(pair: tuple[Example, Example]) -> tuple[Any, ...]:
    """Return how much an example changed, to sort by: status, then scores, structure, outputs, cost in tokens."""
    a, b = pair
    scores = [abs(b.scores[name] - a.scores[name]) for name in a.scores.keys() & b.scores.keys()]
    return (
        a.sums.status != b.sums.status,
        max(scores, default=0.0),
        a.structure != b.structure,
        a.outputs != b.outputs,
        abs(b.sums.tokens - a.sums.tokens),
        a.inputs,  # for the same order at all times
    )
