"""The work on one input: calls of the program until one goes well, wherever it runs."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
import traceback
from collections.abc import Mapping
from typing import Any

import attrs
import cloudpickle

from dspy_mlflow_callbacks.attempts import Attempt
from dspy_mlflow_callbacks.distributed.threads import Carried
from dspy_mlflow_callbacks.executor.errors import InputTimeoutError, RemoteError, RemoteTraceback

NAME = "dspy.run.name"
INPUT = "dspy.run.input"
ATTEMPT = "dspy.run.attempt"


class Call:
    """What the program is called with for one input.

    Args:
        input_id: The input's id.
        args: Positional arguments.
        kwargs: Arguments by name.
        first_attempt: The number of the first attempt, from 1 on.

    Attributes:
        heard: The attempts that were made so far, where they are made in this process.
    """

    def __init__(self, input_id: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], first_attempt: int = 1) -> None:
        self.input_id = input_id
        self.args = args
        self.kwargs = kwargs
        self.first_attempt = first_attempt
        self.heard: list[Attempt] = []

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
    outcome = Outcome(error=InputTimeoutError(call.input_id, timeout))
    for attempt in call.heard:
        outcome.add(attempt, time.perf_counter())
    outcome.duration_s = seconds
    return outcome


def tokens_of(attempt: Attempt) -> int:
    """Return how many tokens an attempt was billed, input and output together."""
    tokens = attempt.spending.tokens
    return tokens.get("total_tokens", tokens.get("input_tokens", 0) + tokens.get("output_tokens", 0))


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
            if outcome.error is None:
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


@attrs.frozen
class RemoteWork:
    """The work in another process: what came of it travels as bytes that this process can read for sure."""

    work: Work

    def __call__(self, call: Call) -> bytes:
        """Do the work."""
        outcome = self.work(call) if self.work.timeout is None else self._within(call, self.work.timeout)
        if outcome.error is not None:
            outcome.error = _portable(outcome.error)
        try:
            sent: bytes = cloudpickle.dumps(outcome)
        except Exception as error:  # noqa: BLE001  (whatever the prediction's own class raises)
            outcome.prediction = None
            outcome.error = RemoteError(f"what the program returned cannot be sent to another process: {error!r}")
            sent = cloudpickle.dumps(outcome)
        return sent

    def _within(self, call: Call, timeout: float) -> Outcome:
        """Do the work in a thread, and give it up when its time is up: the thread goes on, the worker is free."""
        outcomes: list[Outcome] = []
        context = Carried("run")
        thread = threading.Thread(target=lambda: outcomes.append(context.run(self.work, call)), daemon=True)
        thread.start()
        thread.join(timeout)
        return outcomes[0] if outcomes else late(call, timeout, timeout)


def _portable(error: BaseException) -> BaseException:
    """Return an exception that can be pickled and unpickled, with the traceback as its cause: it does not travel."""
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    try:
        pickle.loads(cloudpickle.dumps(error))  # noqa: S301  (made in this line)
    except Exception:  # noqa: BLE001  (whatever its own class raises)
        error = RemoteError(f"{type(error).__name__}: {error}")
    return _Sent(error, text)


class _Sent(Exception):  # noqa: N818  (it is never raised: `received` takes the error out of it)
    """An error on its way, with the text of its traceback."""

    def __init__(self, error: BaseException, text: str) -> None:
        super().__init__(error, text)


def received(pickled: bytes) -> Outcome:
    """Return what came of work in another process."""
    outcome: Outcome = pickle.loads(pickled)  # noqa: S301  (from a worker that this process started)
    if isinstance(outcome.error, _Sent):
        error, text = outcome.error.args
        error.__cause__ = RemoteTraceback(text)
        outcome.error = error
    return outcome
