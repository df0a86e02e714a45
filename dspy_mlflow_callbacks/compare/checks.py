"""Limits that a comparison is held to, for continuous integration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import attrs

from dspy_mlflow_callbacks.checks import named, number, true_or_false

_share = number("a share such as 0.1 for 10%, from 0 on", lambda value: math.isfinite(value) and value >= 0)
_score = number("a number, or a mapping from names of scores", math.isfinite)


@attrs.frozen
class FailedCheck:
    """A check that failed.

    Attributes:
        check: Its name, such as `max_cost_increase`.
        reason: What was found and what is allowed, in words.
    """

    check: str
    reason: str


@attrs.frozen
class Checks:
    """The checks that were made, and those that failed.

    Attributes:
        made: Names of all checks.
        failed: Those that failed; empty where all passed.
    """

    made: tuple[str, ...]
    failed: tuple[FailedCheck, ...]


class CheckFailedError(AssertionError):
    """At least one check of a comparison failed.

    Attributes:
        checks: All checks, and which of them failed, as `Checks`.
    """

    def __init__(self, checks: Checks) -> None:
        super().__init__("; ".join(each.reason for each in checks.failed))
        self.checks = checks


@attrs.frozen(kw_only=True)
class Found:
    """What a comparison has found, for checks.

    Attributes:
        cost_usd: US dollars of baseline and candidate in sum; None where unknown.
        latency_ms: Milliseconds of baseline and candidate, the median of each; None where there are none.
        scores: The candidate's mean score by name.
        structure_changes: How many examples or spans are of another structure.
    """

    cost_usd: tuple[float, float] | None
    latency_ms: tuple[float, float] | None
    scores: Mapping[str, float]
    structure_changes: int


def run_checks(
    found: Found,
    *,
    max_cost_increase: float | None,
    max_latency_increase: float | None,
    min_score: float | Mapping[str, float] | None,
    allow_structure_change: bool,
) -> Checks:
    """Hold *found* to limits.

    Raises:
        CheckFailedError: if a check fails.
        TypeError: if a limit is of the wrong type.
        ValueError: if a limit is out of range, or what it limits is unknown.
    """
    named("allow_structure_change", true_or_false, allow_structure_change)
    results = {
        **_increase("max_cost_increase", max_cost_increase, found.cost_usd, "the sum of costs", "US dollars"),
        **_increase("max_latency_increase", max_latency_increase, found.latency_ms, "the median latency", "ms"),
        **_scores(min_score, found.scores),
    }
    if not allow_structure_change:
        changes = found.structure_changes
        results["allow_structure_change"] = f"the structure changed ({changes} times)" if changes else None
    failed = tuple(FailedCheck(name, reason) for name, reason in results.items() if reason)
    checks = Checks(made=tuple(results), failed=failed)
    if failed:
        raise CheckFailedError(checks)
    return checks


def _increase(name: str, limit: Any, values: tuple[float, float] | None, what: str, unit: str) -> dict[str, str | None]:
    if limit is None:
        return {}
    allowed = named(name, _share, limit)
    if values is None:
        message = f"{name} cannot be checked: {what} is not known on both sides. Leave the check out"
        raise ValueError(message)
    before, after = values
    rise = increase(before, after)
    text = f"{what} rose by {rise:.1%} ({before:.6g} to {after:.6g} {unit}), allowed are {allowed:.1%}"
    return {name: text if rise > allowed else None}


def increase(before: float, after: float) -> float:
    """Return the relative increase: 0.1 is 10%; from nothing to something it is infinite."""
    if before == after:
        return 0.0
    return (after - before) / before if before else math.copysign(math.inf, after)


def _scores(limit: Any, scores: Mapping[str, float]) -> dict[str, str | None]:
    if limit is None:
        return {}
    limits = limit if isinstance(limit, Mapping) else dict.fromkeys(scores, limit)
    checked = {name: named("min_score", _score, each) for name, each in limits.items()}
    missing = sorted(set(checked) - set(scores))
    if missing or not checked:
        named("min_score", number("a number", math.isfinite), 0 if isinstance(limit, Mapping) else limit)
        names = ", ".join(missing) or "any name"
        known = ", ".join(sorted(scores)) or "none"
        message = (
            f"min_score cannot be checked: the candidate has no score of {names}, it has {known}. " + _HOW_TO_SCORE
        )
        raise ValueError(message)
    low = [
        f"{name} is {scores[name]:.6g}, at least {each:.6g} is asked for"
        for name, each in checked.items()
        if scores[name] < each
    ]
    return {"min_score": "the score " + ", ".join(low) if low else None}


_HOW_TO_SCORE = "Log feedback on its traces with mlflow.log_feedback(trace_id=..., name=..., value=...)"
