"""What the program is called with for an input, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import attrs

from dspy_mlflow_callbacks.attempts import Attempt
from dspy_mlflow_callbacks.executor.errors import InputTimeoutError


class Call:
    """What the program is called with for one input.

    Args:
        input_id: The input's id.
        args: Positional arguments.
        kwargs: Arguments by name.
        first_attempt: The number of the first attempt, from 1 on.

    Attributes:
        heard: The attempts that were made so far, where they are made in this process.
        is_given_up: Whether no further attempt is of use.
    """

    def __init__(self, input_id: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], first_attempt: int = 1) -> None:
        self.input_id = input_id
        self.args = args
        self.kwargs = kwargs
        self.first_attempt = first_attempt
        self.heard: list[Attempt] = []
        self.is_given_up = False

    def __reduce__(self) -> tuple[Any, ...]:
        return Call, (self.input_id, self.args, self.kwargs, self.first_attempt)


@attrs.define(eq=False, kw_only=True)
class Outcome:
    """What came of an input.

    Attributes:
        prediction: What the program returned.
        error: What the last attempt raised; None if it returned.
        trace_ids: MLflow's ids of the attempts' traces, as far as they were recorded.
        attempts: How many attempts were made.
        duration_s: Seconds that they took.
        tokens: Tokens that they were billed, as far as they are recorded.
        cost: US dollars, likewise; None where no price is known.
    """

    prediction: Any = None
    error: BaseException | None = None
    trace_ids: tuple[str, ...] = ()
    attempts: int = 0
    duration_s: float = 0.0
    tokens: int = 0
    cost: float | None = None

    def add(self, attempt: Attempt, began: float) -> None:
        """Add what is known of an attempt that has ended, or is given up.

        Args:
            attempt: The attempt.
            began: When it began, by the performance counter.
        """
        self.attempts += 1
        self.duration_s += time.perf_counter() - began
        if attempt.trace_id is not None:
            self.trace_ids = (*dict.fromkeys((*self.trace_ids, attempt.trace_id)),)
        self.tokens += tokens_of(attempt)
        cost = attempt.spending.cost
        if cost is not None:
            self.cost = cost + (self.cost or 0.0)


def late(call: Call, timeout: float, seconds: float) -> Outcome:
    """Return the outcome of an input that is given up while an attempt goes on.

    Args:
        call: The call.
        timeout: The limit.
        seconds: How long it took so far.
    """
    call.is_given_up = True
    outcome = Outcome(error=InputTimeoutError(call.input_id, timeout))
    for attempt in call.heard:
        outcome.add(attempt, time.perf_counter())
    outcome.duration_s = seconds
    return outcome


def tokens_of(attempt: Attempt) -> int:
    """Return how many tokens an attempt was billed, input and output together."""
    tokens = attempt.spending.tokens
    return tokens.get("total_tokens", tokens.get("input_tokens", 0) + tokens.get("output_tokens", 0))
