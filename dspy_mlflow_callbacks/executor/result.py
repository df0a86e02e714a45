"""One input's result, and counts over many."""

from __future__ import annotations

from typing import Any

import attrs

from dspy_mlflow_callbacks.executor.pages import Pages
from dspy_mlflow_callbacks.executor.stored import stored_prediction
from dspy_mlflow_callbacks.executor.window import Slot

_UNREAD = object()


@attrs.define(eq=False, kw_only=True)
class Result:
    """What came of an input.

    Attributes:
        index: Its place among the inputs, from 0 on.
        input_id: Its id.
        inputs: What was given.
        error: What the last attempt raised; None if it returned.
        trace_id: MLflow's id of the last attempt's trace; None if it was not recorded.
        trace_ids: Those of all attempts.
        url: The trace's page in MLflow's UI; None where it is not known.
        attempts: How many attempts were made.
        duration_s: Seconds that they took.
        tokens: Tokens that they were billed, input and output together, as far as they were recorded.
        cost: US dollars, likewise; None where no price is known.
        is_stored: Whether `resume` found it in MLflow: then nothing ran, and it took nothing.
    """

    index: int
    input_id: str
    inputs: Any = attrs.field(repr=False)
    error: BaseException | None = None
    trace_id: str | None = None
    trace_ids: tuple[str, ...] = attrs.field(default=(), repr=False)
    url: str | None = attrs.field(default=None, repr=False)
    attempts: int = 0
    duration_s: float = 0.0
    tokens: int = 0
    cost: float | None = None
    is_stored: bool = False
    _prediction: Any = attrs.field(default=None, repr=False)

    @property
    def prediction(self) -> Any:
        """What the program returned; None if it failed.

        Of an input that is stored, it is read from the trace's outputs when it is first asked for.

        Raises:
            mlflow.exceptions.MlflowException: if the store has that trace no more.
        """
        if self._prediction is _UNREAD and self.trace_id is not None:
            self._prediction = stored_prediction(self.trace_id)
        return self._prediction


def result_of(slot: Slot, pages: Pages, trace_id: str | None) -> Result:
    """Return the result of an input that is done.

    Args:
        slot: The input.
        pages: Where its trace is found.
        trace_id: The run's own trace, which holds an attempt of which nothing more is known.
    """
    outcome: Any = slot.outcome
    trace_ids = outcome.trace_ids
    trace_id = trace_ids[-1] if trace_ids else trace_id
    is_stored = outcome.attempts == 0 and outcome.error is None
    return Result(
        index=slot.index,
        input_id=slot.call.input_id,
        inputs=slot.inputs,
        error=outcome.error,
        trace_id=trace_id,
        trace_ids=trace_ids,
        url=pages.url(trace_id),
        attempts=outcome.attempts,
        duration_s=outcome.duration_s,
        tokens=outcome.tokens,
        cost=outcome.cost,
        is_stored=is_stored,
        prediction=_UNREAD if is_stored else outcome.prediction,
    )


@attrs.define
class Counts:
    """How many inputs are done, and what they took.

    Attributes:
        done: Inputs that are done, one way or another.
        ok: Those for which the program returned.
        errors: Those for which it did not.
        stored: Those that `resume` found in MLflow.
        retries: Attempts beyond the first.
        tokens: Tokens billed, input and output together, as far as they were recorded.
        cost: US dollars, likewise; None where no price is known.
    """

    done: int = 0
    ok: int = 0
    errors: int = 0
    stored: int = 0
    retries: int = 0
    tokens: int = 0
    cost: float | None = None

    def add(self, result: Result) -> None:
        """Add a result."""
        self.done += 1
        self.stored += result.is_stored
        self.errors += result.error is not None
        self.ok += result.error is None and not result.is_stored
        self.retries += max(0, result.attempts - 1)
        self.tokens += result.tokens
        if result.cost is not None:
            self.cost = result.cost + (self.cost or 0.0)

    def in_short(self) -> str:
        """Return errors, tokens and cost for the progress bar."""
        said = [f"{self.errors:,} error{'' if self.errors == 1 else 's'}", f"{self.tokens:,} tokens"]
        if self.cost is not None:
            said.append(f"${self.cost:.4f}")
        return ", ".join(said)
