"""What a test allows the programs in it to spend."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from dspy_mlflow_callbacks import checks
from dspy_mlflow_callbacks.testing.captured import CapturedTraces

_from_zero = checks.number("a number from 0 on", lambda value: value >= 0, mistyped=ValueError)
_limit = checks.argument(checks.optional(_from_zero))


@attrs.frozen(kw_only=True)
class SpendingLimits:
    """The most that the programs of a test may spend, each None for no limit: the marker `dspy_trace`.

    Attributes:
        max_lm_calls: Calls of LMs, those that a cache or a recording answers too.
        max_tokens: Tokens of all kinds that were billed.
        max_cost_usd: US dollars, as far as prices are known.
        max_retries: How often DSPy asks an LM again after a failure.
    """

    max_lm_calls: int | None = attrs.field(default=None, validator=_limit)
    max_tokens: int | None = attrs.field(default=None, validator=_limit)
    max_cost_usd: float | None = attrs.field(default=None, validator=_limit)
    max_retries: int | None = attrs.field(default=None, validator=_limit)

    def check(self, traces: CapturedTraces) -> None:
        """Check what was spent.

        Raises:
            AssertionError: if it is more; it says of what, and shows the traces.
        """
        __tracebackhide__ = True  # what exceeds them is no line of the test
        exceeded = list(self._exceeded(traces))
        if exceeded:
            raise AssertionError("\n".join([*exceeded, "", str(traces)]))

    def _exceeded(self, traces: CapturedTraces) -> Iterator[str]:
        spent = {
            "max_lm_calls": len(traces.lms()),
            "max_tokens": traces.tokens().get("total_tokens", 0),
            "max_cost_usd": traces.cost_usd(),
            "max_retries": traces.retries(),
        }
        for name, value in spent.items():
            limit = getattr(self, name)
            if limit is not None and value > limit:
                yield f"{name}={limit!r}, and the test's programs came to {value!r}"
