"""`compile="summary"`: a WORKFLOW trace with the trials of an optimizer, and what they and the rest cost."""

from __future__ import annotations

import threading

import attrs
import dspy
import mlflow
import pytest
from heard import Heard
from offline_lm import OfflineLM
from optimizers import OPTIMIZERS, SMALL, TRAINSET, compiled, exact, student
from programs import Program, answering, program_tree
from threads import at_once

from dspy_mlflow_callbacks import CallKind, MlflowCallback, optimizer_runs
from dspy_mlflow_callbacks.testing.captured import tree

LABELED = ("LabeledFewShot", [], [])


def bootstrap(*trials):
    """Return a compile of `BootstrapFewShot` with *trials*, and the one of `LabeledFewShot` that it makes."""
    return ("BootstrapFewShot", list(trials), [LABELED])


FULL = ("full", 10)

# What each of the optimizers tries: on all examples or on some, on how many; and the compiles inside it.
TRIED = {
    "LabeledFewShot": LABELED,
    "BootstrapFewShot": bootstrap(("minibatch", 2)),
    "BootstrapFewShotWithRandomSearch": (
        "BootstrapFewShotWithRandomSearch",
        [FULL] * 4,
        [LABELED, bootstrap(("minibatch", 2)), bootstrap(("minibatch", 1))],
    ),
    "BootstrapFewShotWithOptuna": ("BootstrapFewShotWithOptuna", [FULL] * 2, [bootstrap(("minibatch", 2))]),
    "MIPROv2": ("MIPROv2", [FULL] * 3, [LABELED]),
    "COPRO": ("COPRO", [FULL] * 2, []),
    "SIMBA": ("SIMBA", [("minibatch", 2)] * 3 + [FULL] * 2, []),
    "GEPA": ("GEPA", [FULL, *[("minibatch", 3)] * 8], []),
    "InferRules": ("InferRules", [("minibatch", 2), FULL], [LABELED]),
    "BetterTogether": ("BetterTogether", [FULL] * 3, [LABELED, bootstrap(("minibatch", 1))]),
    "Ensemble": ("Ensemble", [], []),
    "KNNFewShot": ("KNNFewShot", [], []),
    "AvatarOptimizer": ("AvatarOptimizer", [FULL] * 2, []),
}


def workflow(traces):
    """Return the only trace that is no example's."""
    (trace,) = [trace for trace in traces.all() if "dspy.compile.trial" not in trace.info.tags]
    return trace


def the_run(traces):
    (run,) = optimizer_runs(workflow(traces))
    return run


def tried(run):
    trials = [(trial.batch, trial.examples) for trial in run.trials]
    return (run.optimizer, trials, [tried(inner) for inner in run.inner])


def scores_of(run):
    own = [trial.score for trial in run.trials]
    return [*own, *(score for inner in run.inner for score in scores_of(inner))]


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_compile_is_its_trials(dspy_traces, nothing_open, request, optimizer):
    """Of each optimizer the trace has the trials, numbered and scored, and counts every LM call of its threads."""
    heard = Heard()
    compiled(optimizer, [MlflowCallback(), heard])
    run = the_run(dspy_traces)
    assert tried(run) == TRIED[request.node.callspec.id]
    assert [trial.index for trial in run.trials] == list(range(1, len(run.trials) + 1))
    assert all(isinstance(score, float) for score in scores_of(run))
    assert run.spent["trials"]["lm_calls"] + run.spent["proposing"]["lm_calls"] == heard.kinds["lm"]
    spans = workflow(dspy_traces).data.spans
    assert {span.get_attribute("dspy.kind") for span in spans} <= {"compile", "trial"}
    assert {(span.span_type, span.status.status_code.value) for span in spans} <= {
        ("WORKFLOW", "OK"),
        ("EVALUATOR", "OK"),
    }
