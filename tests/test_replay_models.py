"""Without a program the logged model runs that the trace names."""

from __future__ import annotations

from functools import partial

import dspy
import mlflow
import pytest
from dspy.dsp.utils.settings import main_thread_config
from offline_lm import OfflineLM
from programs import Program
from replays import fields, record, replay, shape

from dspy_mlflow_callbacks import ReplayError, TracingConfig, log_model

WHY = {"question": "why?"}


@pytest.fixture(
    params=[mlflow.dspy.log_model, partial(log_model, config=TracingConfig())], ids=["by MLflow", "with its tracing"]
)
def logged(dspy_traces, own_folder, monkeypatch, request):
    """Return the trace of a logged model, and what it returned."""
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")
    program = Program()
    with dspy.context(callbacks=[]), mlflow.start_run():
        info = request.param(program, name="program", pip_requirements=[])
    mlflow.set_active_model(model_id=info.model_id)
    traced = record(dspy_traces, lambda: program(**WHY), OfflineLM())
    mlflow.clear_active_model()
    return traced


@pytest.mark.parametrize("active", [False, True])
def test_the_logged_model_replays(logged, active):
    """A trace that names its model replays by its id alone; DSPy's settings and MLflow's active model stay."""
    trace, outputs = logged
    other = mlflow.create_external_model(name="other").model_id if active else None
    if active:
        mlflow.set_active_model(model_id=other)
    before = dict(main_thread_config)
    again = replay(trace.info.trace_id)
    assert (again.divergences, fields(again.outputs), shape(again.trace)) == ((), fields(outputs), shape(trace))
    assert (dict(main_thread_config), mlflow.get_active_model_id()) == (before, other)


def test_a_model_that_cannot_be_loaded_is_named(logged, monkeypatch):
    """A model that is not there any more, or may not be loaded, says so, and what to give instead."""
    trace, _ = logged
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    with pytest.raises(ReplayError, match=r"its model m-\w+ cannot be loaded \(.*\): give the program with program="):
        replay(trace)


def test_a_trace_without_a_model_needs_a_program(dspy_traces):
    """A trace that names no model asks for the program."""
    trace, _ = record(dspy_traces, lambda: Program()(**WHY), OfflineLM())
    with pytest.raises(ReplayError, match=r"it names no logged model .*: give the program that was recorded"):
        replay(trace)
