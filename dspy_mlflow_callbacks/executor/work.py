"""The work on one input: calls of the program until one goes well, wherever it runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import attrs

from dspy_mlflow_callbacks.attempts import Attempt
from dspy_mlflow_callbacks.executor.errors import InputTimeoutError
from dspy_mlflow_callbacks.executor.outcome import Call, Outcome

NAME = "dspy.run.name"
INPUT = "dspy.run.input"
ATTEMPT = "dspy.run.attempt"


@attrs.frozen(kw_only=True)
class Work:
    """What is done with each input.

    Attributes:
        program: The program.
        name: The run's name.
        tags: Tags of the traces that begin with an attempt, besides those that say which it is; None if they get none,
            since all attempts are part of one trace.
        retries: How many attempts may follow the first one.
        timeout: The most seconds for one input where the work itself keeps to it; None for no limit.
    """

    program: Any
    name: str
    tags: Mapping[str, str] | None
    retries: int
    timeout: float | None = None

    def __call__(self, call: Call) -> Outcome:
        """Call the program until it returns, or there are no retries left."""
        outcome = Outcome()
        for number in self._numbers(call):
            attempt, began = self._attempt(call, number), time.perf_counter()
            try:
                with attempt:
                    outcome.prediction, outcome.error = self.program(*call.args, **call.kwargs), None
            except Exception as error:  # noqa: BLE001  (the program's own: it is in the result)
                outcome.error = error
            outcome.add(attempt, began)
            if outcome.error is None or call.is_given_up:
                break
        return outcome

    async def acall(self, call: Call) -> Outcome:
        """Do the same in a task of asyncio, which is cancelled when its time is up."""
        outcome = Outcome()
        try:
            await asyncio.wait_for(self._attempts(call, outcome), self.timeout)
        except asyncio.TimeoutError:
            outcome.error = InputTimeoutError(call.input_id, self.timeout)
        return outcome

    async def _attempts(self, call: Call, outcome: Outcome) -> None:
        for number in self._numbers(call):
            attempt, began = self._attempt(call, number), time.perf_counter()
            try:
                with attempt:
                    outcome.prediction, outcome.error = await self.program.acall(*call.args, **call.kwargs), None
            except Exception as error:  # noqa: BLE001  (the program's own: it is in the result)
                outcome.error = error
            finally:
                outcome.add(attempt, began)
            if outcome.error is None:
                break

    def _numbers(self, call: Call) -> range:
        return range(call.first_attempt, self.retries + 2)

    def _attempt(self, call: Call, number: int) -> Attempt:
        said = {NAME: self.name, INPUT: call.input_id, ATTEMPT: str(number)}
        attempt = Attempt(tags={} if self.tags is None else {**self.tags, **said}, attributes=said)
        call.heard.append(attempt)
        return attempt
