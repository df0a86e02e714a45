"""A trial: one candidate, run on some examples."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from typing import Any, Protocol

from dspy_mlflow_callbacks.describe.content import TRIAL_DEMOS
from dspy_mlflow_callbacks.describe.payloads import to_json
from dspy_mlflow_callbacks.describe.signatures import FINGERPRINT
from dspy_mlflow_callbacks.optimizing.candidates import Candidate
from dspy_mlflow_callbacks.optimizing.spending import Amount, Spending

EXAMPLE_TRACES = "dspy.evaluation.traces"
MAX_EXAMPLE_TRACES = 1000
"""The most ids of example traces that a trial lists; all of them carry the trial's number as a tag."""

FULL, MINIBATCH = "full", "minibatch"


class Around(Protocol):
    """What a trial is a part of."""

    @property
    def id(self) -> str | None:
        """What the traces of its examples have in common."""
        ...

    def spent_on_trials(self, amount: Amount) -> None:
        """Count what a trial spent."""
        ...


class Trial:
    """What is known of a trial while it runs.

    Args:
        around: The compile that it is a part of.
        index: Its number in its compile, from 1 on.
        candidate: The program that is tried.
        before: That of the trial before, if there is one.
    """

    def __init__(self, around: Around, index: int, candidate: Candidate, before: Candidate | None) -> None:
        self._around = around
        self.index = index
        self.candidate = candidate
        self._before = before
        self._lock = threading.Lock()
        self._spending = Spending()
        self._started = time.perf_counter()
        self._ended: float | None = None
        self._example_traces: list[str] = []
        self._scores: list[float] = []
        self._ran: set[int] = set()
        self.examples = 0
        self.batch: str | None = None

    @property
    def name(self) -> str:
        """The name of its span."""
        return f"Trial {self.index}"

    def tags(self) -> dict[str, str]:
        """Return the tags of its examples' traces."""
        tags = {"dspy.compile.id": str(self._around.id), "dspy.compile.trial": str(self.index)}
        fingerprint = self.candidate.fingerprint
        return tags if fingerprint is None else {**tags, FINGERPRINT: fingerprint}

    def is_of(self, part: object) -> bool:
        """Return whether it is a trial of the compile *part*."""
        return self._around is part

    def spent(self, amount: Amount) -> None:
        """Count what an LM call inside it was billed."""
        self._spending.add(amount)
        self._around.spent_on_trials(amount)

    spent_on_trials = spent  # of a compile inside one of its examples

    spent_on_proposing = spent

    def record(self, trace_id: str) -> None:
        """Take note of the trace of one of its examples."""
        with self._lock:
            if len(self._example_traces) < MAX_EXAMPLE_TRACES:
                self._example_traces.append(trace_id)

    def ran_example(self, inputs: Any) -> None:
        """Take note that an example has run, where no evaluation says how many; one that runs again is the same."""
        text = to_json(inputs)
        with self._lock:
            self._ran.add(hash(text))
            self.examples = len(self._ran)
            self._ended = time.perf_counter()

    def scored(self, value: Any) -> None:
        """Take note of one example's score, where no evaluation says it: a number; True is 1."""
        if isinstance(value, (bool, int, float)):
            with self._lock:
                self._scores.append(float(value))

    @property
    def score(self) -> float | None:
        """The mean of its examples' scores in per cent, as `dspy.Evaluate` rounds it; None where none was heard."""
        if not self._scores:
            return None
        mean = sum(self._scores) / len(self._scores)
        return round(100 * mean, 2) if math.isfinite(mean) else mean

    @property
    def scores(self) -> Sequence[float]:
        """The scores of its examples as they were heard."""
        return tuple(self._scores)

    def opening(self) -> dict[str, str]:
        """Return what its span says as it opens."""
        names = (f"trial {self.index - 1}", f"trial {self.index}")
        said = {
            "dspy.trial.index": self.index,
            "dspy.trial.instructions": self.candidate.instructions_since(self._before, names),
            TRIAL_DEMOS: self.candidate.demos_since(self._before),
            FINGERPRINT: self.candidate.fingerprint,
        }
        return {key: to_json(value) for key, value in said.items() if value is not None}

    def closing(self, score: float | None) -> dict[str, str]:
        """Return what its span says as it closes."""
        ended = self._ended or time.perf_counter()
        spent = self._spending.to_dict()
        said = {
            "dspy.trial.score": score,
            "dspy.trial.batch": self.batch,
            "dspy.trial.examples": self.examples,
            EXAMPLE_TRACES: self._example_traces or None,
            "dspy.trial.duration_s": round(ended - self._started, 6),
            **{f"dspy.trial.{name}": value for name, value in spent.items()},
        }
        return {key: to_json(value) for key, value in said.items() if value is not None}
