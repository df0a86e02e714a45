"""Answering a test's LM calls from a recorded file, and recording it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from dspy_mlflow_callbacks import checks, dspy_internals
from dspy_mlflow_callbacks.replaying.answers import LMAnswer, problem_of_lm
from dspy_mlflow_callbacks.replaying.asking import Asked, asked, parameters_differ, parameters_of
from dspy_mlflow_callbacks.replaying.divergences import first_difference
from dspy_mlflow_callbacks.replaying.errors import ReplayStopped
from dspy_mlflow_callbacks.replaying.marks import agrees
from dspy_mlflow_callbacks.replaying.matching import nearest
from dspy_mlflow_callbacks.replaying.recording import Recorded, lm_calls
from dspy_mlflow_callbacks.testing import RECORD_MODES
from dspy_mlflow_callbacks.testing.captured import CapturedTraces
from dspy_mlflow_callbacks.testing.recorded_answers import read_answers, write_answers

RecordMode = Literal["none", "once", "new", "all"]


class UnrecordedCallError(ReplayStopped):
    """A test's program asks an LM something of which the file has no answer. No program catches it by mistake."""


class RecordedAnswers:
    """Answers LM calls from a file, and records what it does not have where its mode allows; see `replay_lms`.

    Attributes:
        path: The file.
        mode: The record mode.
        answered: How many calls were answered from the file.
        is_failed: Set it where what is recorded is not to be written.
    """

    def __init__(self, path: Path, mode: RecordMode) -> None:
        self.path = path
        self.mode = mode
        self.answered = 0
        self.is_failed = False
        self._known = read_answers(path) if mode != "all" and path.exists() else []
        self._records = mode in ("new", "all") or (mode == "once" and not path.exists())
        self._taken: set[str] = set()
        self._lock = threading.Lock()

    def lm(self, lm: Any, arguments: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
        """Return who answers a call: the file, or *lm* itself where its answer is to be recorded."""
        __tracebackhide__ = True  # pytest then shows the line of the program that asks
        call = asked(lm, arguments)
        with self._lock:
            found = self._take(call)
            self.answered += found is not None
        if found is not None:
            return dspy_internals.standing_in(lm, LMAnswer(found, bills=True)), dspy_internals.NO_CONNECTION
        if not self._records:
            raise UnrecordedCallError(self._miss(call))
        return lm, {"cache": False}  # what a cache has may be older than the file that it replaces

    def tool(self, tool: Any, arguments: Mapping[str, Any]) -> Any:
        """Return *tool*: tools run."""
        return tool

    def save(self, traces: CapturedTraces) -> None:
        """Write the file anew with the calls of *traces* that it did not have."""
        if self._records and not self.is_failed:
            made = [call for trace in traces.all() for call in lm_calls(trace)]
            new = [call for call in made if problem_of_lm(call) is None and not self._has(call)]
            write_answers(self.path, [*self._known, *new])

    def _take(self, call: Asked) -> Recorded | None:
        """Return the recording of the same call whose turn it is; the last one stays."""
        fits = [each for each in self._known if _is_answer(each, call)]
        found = next((each for each in fits if each.span_id not in self._taken), fits[-1] if fits else None)
        if found is not None:
            self._taken.add(found.span_id)
        return found

    def _has(self, call: Recorded) -> bool:
        parameters = parameters_of(call)
        return any(each.inputs == call.inputs and parameters_of(each) == parameters for each in self._known)

    def _miss(self, call: Asked) -> str:
        if not self._known:
            return f"{self.path} has no recorded answers: record them with --dspy-record-mode=once"
        near = nearest(self._known, call.inputs)
        field, diff = first_difference(near.inputs, call.inputs) or parameters_differ(near, call) or ("call", "")
        return (
            f"{self.path} has no answer to this LM call: record it with --dspy-record-mode=new, or all calls with all. "
            f"It differs from the nearest recorded one in {field}:\n{diff}"
        )


def _is_answer(recorded: Recorded, call: Asked) -> bool:
    return agrees(recorded.inputs, call.inputs) and agrees(parameters_of(recorded), dict(call.parameters))


@contextmanager
def replay_lms(traces: CapturedTraces, path: Path, mode: RecordMode = "none") -> Iterator[RecordedAnswers]:
    """Answer all LM calls inside from a file: offline, for free, and the same each time.

    Calls that ask the same get their answers in the order in which these were recorded. Tools run. The file has no
    secrets: what is recorded is what spans say, redacted.

    Args:
        traces: What captures the traces of the programs inside: what is recorded is taken from it.
        path: The file (YAML).
        mode: `none` records nothing; `once` records where there is no file yet; `new` adds what the file does not
            have; `all` records everything again. What is recorded is written at the end, unless an error ends it.

    Raises:
        ValueError: if the mode is none of these, or the file holds something else.
        UnrecordedCallError: by an LM call that the file does not have, where nothing is recorded; it shows how the
            nearest recorded one differs. It is no `Exception`, so that a program does not take it for one of its own.

    Example:
        ```python
        with capture_traces() as traces, replay_lms(traces, Path("answers.yaml"), "once"):
            program(question="why?")
        ```
    """
    checks.named("mode", checks.one_of(RECORD_MODES), mode)
    answers = RecordedAnswers(path, mode)
    with dspy_internals.directed_everywhere(answers):
        yield answers
    answers.save(traces)
