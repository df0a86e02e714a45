"""Evaluations on the recorded engine: feedback follows its trace, whatever becomes of that."""

from __future__ import annotations

import dspy
import pytest
from evaluations import EVALUATION, INDEX, devset, evaluate, right, said
from programs import Echo

from dspy_mlflow_callbacks import MlflowCallback, TailSampler

pytestmark = pytest.mark.usefixtures("nothing_left")


def test_a_tail_sampler_takes_feedback_along(dspy_traces):
    """A trace that a tail sampler drops has no feedback, and that of the others is theirs."""

    def picky(example, prediction, trace=None):
        if example.question == "question 1":
            raise ValueError
        return True

    with dspy.context(callbacks=[MlflowCallback(tail_sampler=TailSampler(keep_errors=True))]):
        evaluate(picky)
    trace = dspy_traces.one()
    assert (trace.info.tags[INDEX], [error for *_, error in said(trace)]) == ("1", [("ValueError", None)])


@pytest.mark.parametrize("recorded", ["at once", "in the background"], indirect=True)
def test_a_trace_that_was_looked_at(dspy_traces, recorded):
    """A trace that became MLflow's while it ran has its feedback too."""

    class Looks(Echo):
        def forward(self, question):
            import mlflow

            mlflow.update_current_trace(metadata={"seen": "yes"})
            return question

    evaluate(right, Looks(), examples=devset(1))
    (trace,) = [each for each in dspy_traces.all() if EVALUATION in each.info.tags]
    assert (said(trace), trace.info.trace_metadata["seen"]) == ([("right", True, None, None)], "yes")
