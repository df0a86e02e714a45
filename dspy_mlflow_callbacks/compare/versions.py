"""Comparing two versions of a program by their traces."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from dspy_mlflow_callbacks.checks import named, whole_number
from dspy_mlflow_callbacks.compare.examples import Example, Matched, Versions, extent, has_changed, matched
from dspy_mlflow_callbacks.compare.pages import read
from dspy_mlflow_callbacks.compare.progress import progress_bar
from dspy_mlflow_callbacks.compare.selection import queries
from dspy_mlflow_callbacks.compare.statistics import RESAMPLES, Metric, metric, require_scipy
from dspy_mlflow_callbacks.compare.version_comparison import VersionComparison

_from_zero = whole_number("an integer from 0 on", 0)

_Pair = tuple[Example, Example]


def compare_versions(
    baseline: str,
    candidate: str,
    *,
    by: str = "fingerprint",
    experiments: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    changed: int = 10,
    progress: bool = False,
) -> VersionComparison:
    """Compare two versions of a program by the traces that they have left, matched by the inputs of their roots.

    Statistics are of paired differences, candidate minus baseline, with bootstrap percentile intervals at 95%
    confidence (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13), the same for the same seed.
    Traces are read a page at a time, and only numbers and digests of each are kept.

    Args:
        baseline: Which traces are the baseline's, by *by*.
        candidate: Which are the candidate's.
        by: What selects them: `fingerprint` (`dspy.program.fingerprint` of the root), `tag:KEY` (a trace's tag),
            `experiment` (name or id), `run` (id), `model` (a logged model's id, or `name/version` of a registered one),
            or `evaluation` (the tag `dspy.evaluation.id`).
        experiments: Names or ids of the experiments to look in, for what is not an experiment or a run itself; None
            looks in all.
        resamples: How often pairs are resampled for the intervals; 0 asks for none, and needs no SciPy.
        seed: The seed of the resampling.
        changed: How many of the examples that changed most are listed.
        progress: Whether a bar on standard error says how many traces were read.

    Raises:
        ImportError: if SciPy is not there for intervals: `pip install 'dspy-mlflow-callbacks[stats]'`.
        TypeError: if an argument is of the wrong type.
        ValueError: if an argument is not allowed, a version has no traces, or no inputs are in both.

    Example:
        >>> comparison = compare_versions("v1", "v2", by="tag:version")
        >>> comparison.check(max_cost_increase=0.1, min_score=0.8)
    """
    for name, value in (("resamples", resamples), ("seed", seed), ("changed", changed)):
        named(name, _from_zero, value)
    if resamples:
        require_scipy()
    asked = queries(baseline, candidate, by, experiments)
    versions = Versions()
    with progress_bar(is_shown=progress) as advance:
        for query in asked:
            for trace in read(query):
                versions.add(trace, query)
                advance()
    for side, version in zip(versions.sides, (baseline, candidate), strict=True):
        if not side:
            raise ValueError(_nothing(version, by, versions.incomplete))
    return _compared(versions, (baseline, candidate), by, resamples=resamples, seed=seed, changed=changed)


def _compared(
    versions: Versions, names: tuple[str, str], by: str, *, resamples: int, seed: int, changed: int
) -> VersionComparison:
    found = matched(*versions.sides)
    if not found.pairs:
        message = (
            f"{names[0]!r} ({found.only_baseline} traces) and {names[1]!r} ({found.only_candidate}) have no inputs in "
            "common: run both on the same examples, with capture_inputs on"
        )
        raise ValueError(message)
    ranked = sorted(filter(has_changed, found.pairs), key=extent, reverse=True)
    return VersionComparison(
        baseline=names[0],
        candidate=names[1],
        by=by,
        matched=len(found.pairs),
        only_baseline=found.only_baseline,
        only_candidate=found.only_candidate,
        repeated=found.repeated,
        incomplete=versions.incomplete,
        errors=_errors(found),
        outputs_changed=_count(found, lambda a, b: a.outputs != b.outputs),
        structure_changed=_count(found, lambda a, b: a.structure != b.structure),
        scores=(_mean_scores(a for a, _ in found.pairs), _mean_scores(b for _, b in found.pairs)),
        metrics=tuple(_metrics(found.pairs, resamples=resamples, seed=seed)),
        changed=tuple(ranked[:changed]),
        resamples=resamples,
        seed=seed,
    )


def _nothing(version: str, by: str, incomplete: int) -> str:
    passed_over = f", and {incomplete} traces that have not ended were passed over" if incomplete else ""
    return (
        f"no whole trace is of {version!r} by {by!r}{passed_over}. See what there is with mlflow.search_traces(), and "
        "whether mlflow.set_tracking_uri() names the store that has it"
    )


def _count(found: Matched, differs: Callable[[Example, Example], bool]) -> int:
    return sum(differs(a, b) for a, b in found.pairs)


def _errors(found: Matched) -> tuple[int, int]:
    sides = zip(*found.pairs, strict=True)
    first, second = (sum(each.sums.status == "ERROR" for each in side) for side in sides)
    return first, second


def _metrics(pairs: list[_Pair], *, resamples: int, seed: int) -> list[Metric]:
    names = sorted({name for pair in pairs for each in pair for name in each.scores})
    columns: list[tuple[str, Any, Callable[[Example], float | None]]] = [
        ("latency_ms", "median", lambda each: each.sums.latency_ms),
        ("tokens", "median", lambda each: each.sums.tokens),
        ("cost_usd", "median", lambda each: each.sums.cost_usd),
        *((f"score {name}", "mean", _score(name)) for name in names),
    ]
    found = []
    for name, statistic, of in columns:
        values = [(x, y) for a, b in pairs if (x := of(a)) is not None and (y := of(b)) is not None]
        if values:
            found.append(metric(name, values, statistic, resamples=resamples, seed=seed))
    return found


def _score(name: str) -> Callable[[Example], float | None]:
    return lambda each: each.scores.get(name)


def _mean_scores(examples: Iterable[Example]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for each in examples:
        for name, score in each.scores.items():
            found.setdefault(name, []).append(score)
    return {name: statistics.fmean(scores) for name, scores in sorted(found.items())}
