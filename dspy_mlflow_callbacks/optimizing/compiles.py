"""A compile: its trials, one after the other, and what it spent on them and beside them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sized
from typing import Any, Protocol

import attrs
import dspy

from dspy_mlflow_callbacks.describe.payloads import to_json
from dspy_mlflow_callbacks.optimizing.candidates import Candidate, candidate_of, shape_of
from dspy_mlflow_callbacks.optimizing.spending import Amount, Spending
from dspy_mlflow_callbacks.optimizing.trials import FULL, MINIBATCH, Trial

_METRIC_KEYS = {"eval_full": FULL, "eval_minibatch": MINIBATCH}


class Part(Protocol):
    """A compile or a trial, to which calls inside it count."""

    def spent_on_trials(self, amount: Amount) -> None:
        """Count what an LM call of a candidate was billed."""
        ...

    def spent_on_proposing(self, amount: Amount) -> None:
        """Count what any other LM call was billed."""
        ...


@attrs.define(eq=False)
class Group:
    """A trial that no evaluation announces: calls of one candidate, one after the other or side by side.

    Attributes:
        trial: The trial.
        batch: What DSPy runs side by side with the first of the calls; None where it runs alone.
        programs: The programs that were called: the same, or equal copies.
        end: Ends the trial's span, with what was raised.
    """

    trial: Trial
    batch: object | None
    programs: list[Any]
    end: Callable[[BaseException | None], None]

    def is_of(self, program: Any) -> bool:
        """Return whether *program* is one of those that were called."""
        return any(program is each for each in self.programs)


class CompileSummary:
    """What is known of a compile while it runs.

    Args:
        call_id: DSPy's id of its call.
        inputs: Its arguments by name.
        outer: The compile or trial that it is a part of, if any.
    """

    def __init__(self, call_id: str, inputs: Mapping[str, Any], outer: Part | None) -> None:
        self.call_id = call_id
        self.trace_id: str | None = None
        self._is_inner = False
        self.lock = threading.RLock()  # also of those who open and close groups
        self.groups: list[Group] = []
        self._outer = outer
        self._shape = shape_of(next((each for each in inputs.values() if isinstance(each, dspy.Module)), None))
        self._full = _size(inputs.get("valset"))
        self._largest = 0
        self._trainset = _size(inputs.get("trainset"))
        self._last: tuple[int, Candidate | None] = (0, None)
        self._trials = Spending()
        self._proposing = Spending()
        self._unrecorded = Spending()

    @property
    def id(self) -> str | None:
        """What the traces of its examples have in common: its trace's id, and inside another call its own."""
        return f"{self.trace_id}/{self.call_id}" if self._is_inner else self.trace_id

    def began(self, trace_id: str, *, is_inner: bool) -> None:
        """Take note of the trace in which its span is, and whether it is there below another one."""
        self.trace_id, self._is_inner = trace_id, is_inner

    def is_candidate(self, program: Any) -> bool:
        """Return whether *program* is what this compile makes better, rather than a program that helps."""
        return self._shape is not None and self._shape.fits(program)

    def new_trial(self, program: Any) -> Trial:
        """Return the next trial, of *program* as it is now."""
        candidate = candidate_of(program)
        with self.lock:
            index, before = self._last
            self._last = (index + 1, candidate)
        return Trial(self, index + 1, candidate, before)

    def evaluates(self, program: Any, devset: Any, metadata: Any) -> Trial:
        """Return the trial that an evaluation is."""
        trial = self.new_trial(program)
        trial.examples = _size(devset) or 0
        trial.batch = self._batch_of(trial.examples, metadata)
        return trial

    def _batch_of(self, size: int, metadata: Any) -> str:
        """Return whether an evaluation is on all examples: by what DSPy says of it, else by the sizes of devsets."""
        with self.lock:
            self._largest = max(self._largest, size)
            least = self._full or self._largest
        said = metadata if isinstance(metadata, Mapping) else {}
        if said.get("disable_logging"):
            return MINIBATCH
        return _METRIC_KEYS.get(said.get("metric_key", ""), FULL if size >= least else MINIBATCH)

    def end_group(self, group: Group, exception: BaseException | None) -> None:
        """End a group of which all has run, or that *exception* interrupted."""
        is_full = self._trainset is not None and group.trial.examples >= self._trainset
        group.trial.batch = FULL if is_full else MINIBATCH
        group.end(exception)

    def spent_on_trials(self, amount: Amount) -> None:
        """Count what an LM call of a candidate was billed."""
        self._trials.add(amount)
        self._count_unrecorded(amount)
        if self._outer is not None:
            self._outer.spent_on_trials(amount)

    def spent_on_proposing(self, amount: Amount) -> None:
        """Count what any other LM call was billed: one that proposes instructions, say."""
        self._proposing.add(amount)
        self._count_unrecorded(amount)
        if self._outer is not None:
            self._outer.spent_on_proposing(amount)

    spent = spent_on_proposing

    def _count_unrecorded(self, amount: Amount) -> None:
        if not amount.is_recorded:
            self._unrecorded.add(amount)

    def closing(self) -> dict[str, str]:
        """Return what its span says as it closes.

        The tokens that no other span says are the span's own, so that MLflow's sums over a trace, and over all traces,
        count each once.
        """
        said: dict[str, Any] = {
            "dspy.compile.trials": self._last[0],
            "dspy.compile.spent": {"trials": self._trials.to_dict(), "proposing": self._proposing.to_dict()},
        }
        if self._outer is None:
            tokens, cost = self._unrecorded.tokens, self._unrecorded.cost
            said["mlflow.chat.tokenUsage"] = tokens or None
            said["mlflow.llm.cost"] = None if cost is None else {"total_cost": cost}
        return {key: to_json(value) for key, value in said.items() if value is not None}


def _size(examples: Any) -> int | None:
    return len(examples) if isinstance(examples, Sized) else None
