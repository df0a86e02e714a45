"""`optimizer_runs`: what an optimizer tried, read back from stored traces."""

from __future__ import annotations

import json

import dspy
import pytest
from offline_lm import OfflineLM
from optimizers import OPTIMIZERS, compiled, copro
from programs import Program

from dspy_mlflow_callbacks import MlflowCallback, OptimizerRun, TrialResult, optimizer_runs


def trial(index, score, batch="full"):
    return TrialResult(
        index=index,
        batch=batch,
        score=score,
        examples=2,
        lm_calls=2,
        tokens={"total_tokens": 10},
        cost_usd=None,
        duration_s=0.5,
        status="OK",
        fingerprint="0123456789abcdef",
        instructions="",
        demos={},
        example_traces=("tr-1",),
    )


def run_of(*trials):
    return OptimizerRun(
        optimizer="COPRO", trace_id="tr-0", status="OK", duration_s=1.0, trials=trials, spent={}, inner=()
    )


BEST = {
    "nothing tried": ([], None),
    "no score": ([(1, None)], None),
    "the highest": ([(1, 50.0), (2, 75.0), (3, 25.0)], 2),
    "the first of equals": ([(1, 50.0), (2, 50.0)], 1),
    "on all examples before on some": ([(1, 50.0), (2, 100.0, "minibatch")], 1),
    "on some, where there is no other": ([(1, 50.0, "minibatch"), (2, 100.0, "minibatch")], 2),
    "below zero": ([(1, -2.0), (2, -1.0)], 2),
}


@pytest.mark.parametrize(("trials", "best"), BEST.values(), ids=BEST)
def test_the_best_trial(trials, best):
    """The best trial has the highest score, of those on all examples if there are any."""
    run = run_of(*(trial(*each) for each in trials))
    assert (run.best and run.best.index) == best
    assert run.to_dict()["best"] == best


def test_a_run_as_json_values():
    """`to_dict` is the fields by name, trials and compiles inside as well."""
    run = run_of(trial(1, 50.0))
    said = run.to_dict()
    assert said["trials"] == [run.trials[0].to_dict()]
    assert said["trials"][0]["example_traces"] == ["tr-1"]
    assert json.loads(json.dumps(said)) == said


def test_runs_are_read_from_traces_and_ids(dspy_traces):
    """A trace, its id, or many of either give the compiles that are recorded in them, and others none."""
    with dspy.context(lm=OfflineLM(), callbacks=[MlflowCallback()]):
        Program()(question="why?")
    compiled(copro, [MlflowCallback(evaluate="off")])
    called, workflow = dspy_traces.all()
    (run,) = optimizer_runs(workflow)
    assert (run.optimizer, run.status, run.trace_id) == ("COPRO", "OK", workflow.info.trace_id)
    assert run.duration_s >= sum(each.duration_s for each in run.trials) > 0
    assert optimizer_runs(workflow.info.trace_id) == optimizer_runs([called, workflow.info.trace_id]) == [run]
    assert optimizer_runs([]) == optimizer_runs(called) == []


def test_a_compile_in_full_has_no_trials(dspy_traces):
    """Of a compile that is recorded in full it is known that it was, with the compiles inside it."""
    compiled(OPTIMIZERS["BetterTogether"], [MlflowCallback(compile="full")])
    (run,) = optimizer_runs(dspy_traces.one())
    assert (run.trials, run.spent, run.best) == ((), {}, None)
    assert [each.optimizer for each in run.inner] == ["LabeledFewShot", "BootstrapFewShot"]


@pytest.mark.parametrize(
    ("traces", "error", "said"),
    [
        (7, TypeError, "traces must be an mlflow.entities.Trace, its id, or an iterable of these, got 7"),
        ([7], TypeError, "a trace must be an mlflow.entities.Trace or its id, got 7"),
        ("tr-0", ValueError, "there is no trace 'tr-0'"),
    ],
)
def test_what_is_no_trace_is_refused(dspy_traces, traces, error, said):
    """What is neither a trace nor the id of one is refused by what was given."""
    with pytest.raises(error, match=said):
        optimizer_runs(traces)
