"""Paired statistics: medians and means of two versions on equal inputs, and how sure their difference is.

The statistic is the paired difference, candidate minus baseline, of each example: examples differ more among
themselves than versions do, and pairing takes that out. Its median (of latency, tokens and cost, which have long
tails) or mean (of scores) gets a bootstrap percentile interval (Efron and Tibshirani, "An Introduction to the
Bootstrap", 1993, chapter 13; they ask for 1,000 resamples at least): pairs are drawn with replacement by
`scipy.stats.bootstrap`. BCa intervals are not taken: their acceleration comes from the jackknife, which fails for
medians (ibid., section 11.6).
"""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Sequence
from typing import Any, Literal

import attrs

RESAMPLES = 2_000
CONFIDENCE = 0.95
_BATCH_NUMBERS = 1_000_000
"""Numbers that are held at a time while resampling: 8 MB."""


@attrs.frozen(kw_only=True)
class Metric:
    """A quantity on both sides, over the pairs where both have it.

    Attributes:
        name: `latency_ms`, `tokens`, `cost_usd`, or `score NAME`.
        statistic: `median` or `mean`.
        pairs: How many pairs have it on both sides.
        baseline: The baseline's statistic.
        candidate: The candidate's.
        baseline_sum: The baseline's sum.
        candidate_sum: The candidate's.
        difference: The statistic of the paired differences, candidate minus baseline.
        interval: Its bootstrap interval, at 95% confidence; None where none was asked for, or of less than two pairs.
    """

    name: str
    statistic: Literal["median", "mean"]
    pairs: int
    baseline: float
    candidate: float
    baseline_sum: float
    candidate_sum: float
    difference: float
    interval: tuple[float, float] | None


def metric(
    name: str,
    values: Sequence[tuple[float, float]],
    statistic: Literal["median", "mean"],
    *,
    resamples: int,
    seed: int,
) -> Metric:
    """Return the statistics of *values*, pairs of baseline and candidate; no interval for no *resamples*."""
    first, second = [a for a, _ in values], [b for _, b in values]
    differences = [b - a for a, b in values]
    take = statistics.median if statistic == "median" else statistics.fmean
    return Metric(
        name=name,
        statistic=statistic,
        pairs=len(values),
        baseline=float(take(first)),
        candidate=float(take(second)),
        baseline_sum=float(sum(first)),
        candidate_sum=float(sum(second)),
        difference=float(take(differences)),
        interval=_interval(differences, statistic, resamples, seed) if resamples and len(values) > 1 else None,
    )


def _interval(differences: list[float], statistic: str, resamples: int, seed: int) -> tuple[float, float]:
    if len(set(differences)) == 1:
        return differences[0], differences[0]  # every resample is the same
    stats, numpy = _scipy_stats(), importlib.import_module("numpy")
    found = stats.bootstrap(
        (differences,),
        getattr(numpy, statistic),
        n_resamples=resamples,
        batch=max(1, _BATCH_NUMBERS // len(differences)),
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=numpy.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def require_scipy(load: Any = importlib.import_module) -> None:
    """Say at once, before anything is read, that intervals need SciPy.

    Raises:
        ImportError: if it is not installed; it names the extra.
    """
    try:
        load("scipy.stats")
    except ImportError:
        message = (
            "confidence intervals need SciPy: pip install 'dspy-mlflow-callbacks[stats]', or ask for none with "
            "resamples=0 (dspy-mlflow compare --resamples 0)"
        )
        raise ImportError(message) from None


def _scipy_stats() -> Any:
    return importlib.import_module("scipy.stats")  # a second to import: only who asks for intervals pays it
