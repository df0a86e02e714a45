"""What LM calls cost that have no span of their own."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import attrs

from dspy_mlflow_callbacks.describe.usage import report


@attrs.frozen
class Amount:
    """What one LM call was billed.

    Attributes:
        tokens: Counts by MLflow's names; empty where none was reported.
        cost: US dollars; None where no price is known.
        is_recorded: Whether the call has a span that says so too.
    """

    tokens: Mapping[str, int]
    cost: float | None
    is_recorded: bool


def amount_of(watch: Any, outputs: Any, *, is_recorded: bool) -> Amount:
    """Return what an LM call was billed, of which *watch* (an `LMWatch`) heard."""
    known = report(watch, outputs)
    cost = None if known.cost is None else known.cost["total_cost"]
    return Amount(known.tokens, cost, is_recorded)


class Spending:
    """Amounts that many threads add up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls = 0
        self._tokens: dict[str, int] = {}
        self._cost: float | None = None

    def add(self, amount: Amount) -> None:
        """Add what one LM call was billed."""
        with self._lock:
            self._calls += 1
            for name, count in amount.tokens.items():
                self._tokens[name] = self._tokens.get(name, 0) + count
            if amount.cost is not None:
                self._cost = amount.cost + (self._cost or 0.0)

    @property
    def tokens(self) -> dict[str, int]:
        """Counts by MLflow's names, such as `input_tokens`; empty where none was reported."""
        with self._lock:
            return dict(self._tokens)

    @property
    def cost(self) -> float | None:
        """US dollars of the calls whose price is known; None where none is."""
        return self._cost

    def to_dict(self) -> dict[str, Any]:
        """Return calls, tokens by name, and US dollars."""
        return {"lm_calls": self._calls, "tokens": self.tokens, "cost": self._cost}
