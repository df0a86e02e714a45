"""Scores that a trace has: its MLflow feedback."""

from __future__ import annotations

import statistics

from mlflow.entities import Feedback, Trace


def scores_of(trace: Trace) -> dict[str, float]:
    """Return the mean of the numbers and booleans of a trace's feedback by name; true is 1.

    Feedback that was replaced since or failed does not count, nor do texts.
    """
    found: dict[str, list[float]] = {}
    for feedback in trace.info.assessments or ():
        value = getattr(feedback, "value", None)
        is_valid = isinstance(feedback, Feedback) and feedback.valid is not False and feedback.error is None
        if is_valid and isinstance(value, (bool, int, float)):
            found.setdefault(feedback.name, []).append(float(value))
    return {name: statistics.fmean(values) for name, values in sorted(found.items())}
