"""What a comparison of two versions says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

from dspy_mlflow_callbacks.compare.checks import Found
from dspy_mlflow_callbacks.compare.document import Document, Heading, Line, Part, Table
from dspy_mlflow_callbacks.compare.examples import Example
from dspy_mlflow_callbacks.compare.report import Comparison
from dspy_mlflow_callbacks.compare.statistics import CONFIDENCE, Metric

_Pair = tuple[Example, Example]


@attrs.frozen(kw_only=True)
class VersionComparison(Comparison):
    """Two versions side by side: what `compare_versions` returns.

    Attributes:
        baseline: The baseline, as it was given.
        candidate: The candidate.
        by: What selected them.
        matched: How many pairs of traces have equal inputs; all that follows is of them.
        only_baseline: How many traces of the baseline have no partner.
        only_candidate: How many of the candidate.
        repeated: How many inputs a version has more than once; these are matched in the order of time.
        incomplete: How many traces were passed over because they have not ended.
        errors: How many of the baseline and of the candidate failed.
        outputs_changed: How many pairs have other outputs.
        structure_changed: How many pairs have another structure.
        scores: Mean scores by name of the baseline and of the candidate, each over its matched traces that have them.
        metrics: Latency, tokens, cost, and the scores that are on both sides of a pair.
        changed: The pairs that changed most: by status, then scores, structure, outputs, tokens.
        resamples: How often pairs were resampled.
        seed: The seed of it.
    """

    baseline: str
    candidate: str
    by: str
    matched: int
    only_baseline: int
    only_candidate: int
    repeated: int
    incomplete: int
    errors: tuple[int, int]
    outputs_changed: int
    structure_changed: int
    scores: tuple[dict[str, float], dict[str, float]]
    metrics: tuple[Metric, ...]
    changed: tuple[_Pair, ...]
    resamples: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Return all that was found as JSON values, by the names of the attributes."""
        return attrs.asdict(self)

    def _found(self) -> Found:
        by_name = {each.name: each for each in self.metrics}
        cost, latency = by_name.get("cost_usd"), by_name["latency_ms"]
        return Found(
            cost_usd=None if cost is None else (cost.baseline_sum, cost.candidate_sum),
            latency_ms=(latency.baseline, latency.candidate),
            scores=self.scores[1],
            structure_changes=self.structure_changed,
        )

    def _document(self) -> Document:
        counts = (
            ("matched", str(self.matched)),
            ("only baseline", str(self.only_baseline)),
            ("only candidate", str(self.only_candidate)),
            ("repeated inputs", str(self.repeated)),
            ("not ended, passed over", str(self.incomplete)),
            ("errors", f"{self.errors[0]} → {self.errors[1]}"),
            ("outputs changed", str(self.outputs_changed)),
            ("structure changed", str(self.structure_changed)),
        )
        examples: list[Part] = [Heading("Examples that changed most"), _examples(self.changed)] if self.changed else []
        return [
            Heading(f"{self.baseline} → {self.candidate} (by {self.by})"),
            Table(("traces", "count"), counts),
            Table(_METRIC_HEAD, tuple(map(_metric_row, self.metrics))),
            Line(self._how()),
            *examples,
        ]

    def _how(self) -> str:
        if not self.resamples:
            return "Differences are paired, candidate minus baseline; no intervals were asked for."
        return (
            f"Differences are paired, candidate minus baseline; {CONFIDENCE:.0%} bootstrap percentile intervals of "
            f"{self.resamples:,} resamples, seed {self.seed}."
        )


_METRIC_HEAD = ("", "statistic", "pairs", "baseline", "candidate", "difference", "95% interval", "sums")
_EXAMPLE_HEAD = ("inputs", "baseline", "candidate", "what changed", "traces")


def _metric_row(each: Metric) -> tuple[str, ...]:
    numbers = (each.baseline, each.candidate, each.difference)
    interval = "" if each.interval is None else "{:.6g} to {:.6g}".format(*each.interval)
    sums = f"{each.baseline_sum:.6g} → {each.candidate_sum:.6g}"
    return (each.name, each.statistic, str(each.pairs), *(f"{number:.6g}" for number in numbers), interval, sums)


def _examples(pairs: Iterable[_Pair]) -> Table:
    return Table(_EXAMPLE_HEAD, tuple(map(_example_row, pairs)))


def _example_row(pair: _Pair) -> tuple[str, ...]:
    a, b = pair
    facts = {
        f"status {a.sums.status} → {b.sums.status}": a.sums.status != b.sums.status,
        "structure": a.structure != b.structure,
        "outputs": a.outputs != b.outputs,
        **{
            f"{name} {a.scores[name]:.6g} → {b.scores[name]:.6g}": a.scores[name] != b.scores[name]
            for name in sorted(a.scores.keys() & b.scores.keys())
        },
    }
    what = ", ".join(text for text, is_so in facts.items() if is_so)
    return (a.inputs_text, a.outputs_text, b.outputs_text, what, f"{a.sums.trace_id} {b.sums.trace_id}")
