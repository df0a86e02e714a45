"""Drivers of engines: they run tasks in a trace, and look for all of them in the store."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from contextlib import contextmanager

import dspy
import mlflow
import pytest
from docs_blocks import Page
from program_of_tasks import LM, SPANS
from programs import Runs

from dspy_mlflow_callbacks import MlflowCallback, flush

TASKS = 200
PAGE = Page("docs/scaling.md")


@contextmanager
def driving(server, folder):
    """Give a driver whose traces go to a server, in an experiment of its own."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(server.uri)
    mlflow.tracing.reset()
    yield Driver(folder)
    mlflow.flush_trace_async_logging()
    mlflow.set_tracking_uri(before)


class Driver:
    """Runs a function in a trace of its own.

    Args:
        folder: What a task that dies waits for is there.
    """

    def __init__(self, folder):
        self.folder = folder
        self.experiment_id = mlflow.set_experiment(uuid.uuid4().hex).experiment_id

    @contextmanager
    def tracing(self, **options):
        """Trace what runs inside, and wait until it is stored."""
        with dspy.context(lm=LM, callbacks=[MlflowCallback(**options)]):
            yield
            assert flush(60)

    def run(self, function, **options):
        """Run it below a span, and return what it returns."""
        with self.tracing(**options):
            return Runs(lambda _: function())()

    def traces(self, condition=None):
        return mlflow.MlflowClient().search_traces(locations=[self.experiment_id], filter_string=condition)

    def check(self, tasks, *, spans=None, errors=0, root="Runs"):
        """Check that there is one trace, of so many tasks, with each span under its parent as in a sequential run."""
        (trace,) = self.traces()
        found = below(trace)
        assert not any(above == "an orphan" for above, _ in found), found
        assert sum(found.values()) == (1 + SPANS * tasks if spans is None else spans), found
        assert found[None, root] == 1
        assert found[root, "Answers"] == tasks
        if spans is None:
            assert found == in_sequence(tasks, root)
        assert trace.info.state == "OK"
        failed = [span for span in trace.data.spans if span.name == "Answers" and span.status.status_code == "ERROR"]
        assert len(failed) == errors
        return trace

    def check_sampling(self, tasks_of, *, roots=8, tasks=25):
        """Check that of traces of which half are sampled each is there with all its tasks, or not at all.

        Args:
            tasks_of: Runs as many tasks as it is given questions.
            roots: How many traces there are.
            tasks: How many tasks each has.
        """
        sampled = []

        def root():
            span = mlflow.get_current_active_span()
            if span is not None:
                sampled.append(span.trace_id)
            tasks_of(questions(tasks))

        for _ in range(roots):
            self.run(root, sampling_ratio=0.5)
        traces = self.traces()
        assert {trace.info.trace_id for trace in traces} == set(sampled)
        assert all(below(trace) == in_sequence(tasks) for trace in traces)

    def check_erring(self, tasks_of, error, attempts=1):
        """Check that a task that raises is part of the trace like the others, up to where it raised.

        Args:
            tasks_of: Runs as many tasks as it is given questions.
            error: What the engine raises.
            attempts: How often the engine tries.
        """

        def run():
            tasks_of(questions(TASKS - 1))
            with pytest.raises(error, match="fails at once"):
                tasks_of(["fails at once"])

        self.run(run)
        calls = TASKS - 1 + attempts
        self.check(calls, spans=1 + SPANS * calls - 4 * attempts, errors=attempts)

    def check_death(self, tasks_of):
        """Check what a trace says of a task whose worker died in the middle of it.

        Args:
            tasks_of: Runs as many tasks as it is given questions.
        """
        asked = [self.dying(), *questions(20)]
        assert len(self.run(lambda: tasks_of(asked))) == len(asked)
        self.check_second_attempt(len(asked))

    def dying(self):
        """Return the question whose task dies once, when its first predictor is stored."""
        (self.folder / "tasks").mkdir()
        threading.Thread(target=self._let_die, daemon=True).start()
        return f"dies in {self.folder / 'tasks'}"

    def _let_die(self):
        end = time.monotonic() + 100
        while time.monotonic() < end:
            if any(is_of_dying(span) for trace in self.traces() for span in trace.data.spans):
                break
            time.sleep(0.2)
        (self.folder / "tasks" / "is stored").touch()

    def check_second_attempt(self, tasks):
        """Check that the trace has a task that was begun twice, and what was stored of the first attempt."""
        (trace,) = self.traces()
        found = below(trace)
        assert not any(above == "an orphan" for above, _ in found), found
        calls = [span for span in trace.data.spans if span.name == "Answers"]
        assert Counter(span.get_attribute("dspy.attempt") for span in calls) == {None: tasks, 2: 1}
        (dead,) = [span for span in calls if span.status.status_code == "ERROR"]
        assert dead.get_attribute("dspy.attempt") is None
        assert "Answers.first" in dead_in(trace)
        assert found["Answers.second", "ChatAdapter.parse"] == tasks
        assert trace.info.tags["dspy.retried"] == "true"


def is_of_dying(span):
    """Return whether it is the first predictor's of the task that dies."""
    return span.name == "Answers.first" and span.inputs["question"].startswith("dies in ")


def dead_in(trace):
    """Return the names of the spans below those of tasks that have not ended."""
    dead = {span.span_id for span in trace.data.spans if span.name == "Answers" and span.status.status_code == "ERROR"}
    return {span.name for span in trace.data.spans if span.parent_id in dead}


def below(trace):
    """Return how many spans of each name there are below each name."""
    names = {span.span_id: span.name for span in trace.data.spans}
    names[None] = None
    return Counter((names.get(span.parent_id, "an orphan"), span.name) for span in trace.data.spans)


def in_sequence(tasks, root="Runs"):
    """Return what `below` returns of a sequential run, below a root; None is a task without one."""
    lm = LM.model
    predictors = [f"Answers.{name}" for name in ("first", "second")]
    steps = [(each, step) for each in predictors for step in ("ChatAdapter.format", lm, "ChatAdapter.parse")]
    once = [(root, "Answers"), ("Answers", "Answers.between"), *[("Answers", each) for each in predictors], *steps]
    above = {} if root is None else {(None, root): 1}
    return Counter({**above, **dict.fromkeys(once, tasks)})


def questions(number=TASKS):
    return [f"question {each}" for each in range(number)]
