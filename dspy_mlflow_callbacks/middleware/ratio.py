"""Sampling by ratio."""

from __future__ import annotations

import math

import attrs

from dspy_mlflow_callbacks import checks
from dspy_mlflow_callbacks.events import CallStart

# uuid4 fixes six bits among its first 20 hexadecimal digits: a ratio is taken from the last 14, all of them random.
_RANDOM_DIGITS = 14
_ALL = 16**_RANDOM_DIGITS


@attrs.frozen
class RatioSampler:
    """Keeps this share of all traces, each whole or not at all.

    The decision is a pure function of the root call's id, like OpenTelemetry's `TraceIdRatioBased`,
    so that every call of a trace gets the same answer in every thread and process.

    Where it was decided before, that stands, like OpenTelemetry's `ParentBased`: below an MLflow span of your own that
    records, or a remote parent whose `traceparent` is sampled, calls are kept; below one that does not record, or is
    not sampled, they are dropped. What MLflow samples itself (`MLFLOW_TRACE_SAMPLING_RATIO`) comes after this.

    Args:
        ratio: The share of traces to keep, from 0 (none) to 1 (all).

    Raises:
        TypeError: if *ratio* is not a number.
        ValueError: if *ratio* is not from 0 to 1.

    Example:
        ```python
        MlflowCallback(middleware=[RatioSampler(0.1)])
        MlflowCallback(sampling_ratio=0.1)  # the same as an option
        ```
    """

    ratio: float = attrs.field(validator=checks.share)
    _bound: int = attrs.field(init=False, repr=False, eq=False)

    @_bound.default
    def _bound_of_ratio(self) -> int:
        # Reached before the validator has run, so it must not fail on what the validator will refuse.
        valid = isinstance(self.ratio, (int, float)) and not math.isnan(self.ratio)
        return round(max(0.0, min(1.0, self.ratio)) * _ALL) if valid else 0

    def __call__(self, call: CallStart) -> CallStart | None:
        """Return *call* if its trace is kept, else None."""
        return call if call.is_sampled or self.may_keep(call.root_call_id) else None

    def may_keep(self, root_call_id: str) -> bool:
        """Return whether the trace with this root is kept."""
        return int(root_call_id[-_RANDOM_DIGITS:], 16) < self._bound
