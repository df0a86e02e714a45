"""When a trace is in the store: after each way to flush, or before the call returns."""

from __future__ import annotations

import os

import dspy
import mlflow
import pytest
from mlflow.tracing.processor.base_mlflow import flush_all_batch_processors
from offline_lm import OfflineLM
from programs import Program, program_tree

import dspy_mlflow_callbacks
from dspy_mlflow_callbacks import MlflowCallback
from dspy_mlflow_callbacks.testing.captured import tree

pytestmark = pytest.mark.usefixtures("nothing_open")


@pytest.fixture
def callback(background_callback):
    return background_callback


def search(callback, traces):
    mlflow.search_traces(locations=[traces.experiment_id], flush=True)


WAYS = {
    "callback.flush": lambda callback, traces: callback.flush(),
    "flush": lambda callback, traces: dspy_mlflow_callbacks.flush(),
    "flush_trace_async_logging": lambda callback, traces: mlflow.flush_trace_async_logging(),
    "search_traces": search,
}


@pytest.mark.parametrize("flush", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("terminated", [False, True], ids=["", "after terminate"])
def test_each_flush_waits_for_all(dspy_traces, callback, flush, terminated):
    """After any flush all that has ended is stored, also when MLflow's own exporters were terminated before."""
    if terminated:
        flush_all_batch_processors(terminate=True)
    for number in range(50):
        Program()(question=f"{number}?")
    flush(callback, dspy_traces)
    assert (callback.stats().stored, callback.stats().queued) == (50, 0)
    stored = mlflow.search_traces(locations=[dspy_traces.experiment_id], return_type="list", max_results=100)
    assert [tree(trace) for trace in stored] == [[program_tree()]] * 50


def test_to_flush_nothing_is_to_be_done(callback):
    """With nothing to store a flush says at once that all is stored."""
    assert callback.flush(0)
    assert dspy_mlflow_callbacks.flush(timeout=0)


@pytest.mark.parametrize("timeout", [-1, float("nan"), "1", True, None])
def test_a_time_that_makes_no_sense_is_refused(timeout):
    """A flush refuses what is no number of seconds, by name."""
    with pytest.raises(ValueError, match="timeout must be a number of seconds from 0 on, got"):
        dspy_mlflow_callbacks.flush(timeout)


def test_without_mlflows_asynchronous_logging(dspy_traces, monkeypatch):
    """With `MLFLOW_ENABLE_ASYNC_TRACE_LOGGING=false` a trace is in the store when its call returns."""
    callback = MlflowCallback(engine="recorded")
    assert os.environ["MLFLOW_ENABLE_ASYNC_TRACE_LOGGING"] == "false"
    with dspy.context(lm=OfflineLM(), callbacks=[callback]):
        Program()(question="why?")
    trace = mlflow.MlflowClient().get_trace(mlflow.get_last_active_trace_id())
    assert tree(trace) == [program_tree()]
