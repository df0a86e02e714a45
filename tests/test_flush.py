"""`flush` waits until traces are stored, and no longer than it is told to."""

from __future__ import annotations

import time

import dspy
import mlflow
import pytest
from programs import Echo, Program, answering
from stored import locked_store

import dspy_mlflow_callbacks
from dspy_mlflow_callbacks import MlflowCallback
from dspy_mlflow_callbacks.spans import native


@pytest.fixture(autouse=True)
def _in_the_background(dspy_traces, monkeypatch):
    """Let traces be stored in the background, as they are outside of tests."""
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "true")
    mlflow.tracing.reset()


def stored(traces) -> int:
    """Return how many traces the store has now."""
    return len(mlflow.search_traces(locations=[traces.experiment_id], return_type="list"))


@pytest.mark.parametrize(
    "flush", [dspy_mlflow_callbacks.flush, MlflowCallback().flush, mlflow.flush_trace_async_logging]
)
def test_what_has_ended_is_stored(dspy_traces, flush):
    """After a flush every trace that has ended can be read, whichever flush it was."""
    for _ in range(3):
        Echo()()
    assert flush() in (True, None)
    assert stored(dspy_traces) == 3


def test_a_search_can_flush_first(dspy_traces):
    """`mlflow.search_traces(flush=True)` finds what has just ended."""
    Echo()()
    assert len(mlflow.search_traces(locations=[dspy_traces.experiment_id], return_type="list", flush=True)) == 1


@pytest.mark.engine("native")
def test_a_process_ends_with_all_stored(dspy_traces):
    """What the native engine calls at the end of a forked process waits until MLflow has stored its traces."""
    Echo()()
    native._flush()
    assert stored(dspy_traces) == 1
    mlflow.tracing.reset()  # MLflow's threads have ended


@pytest.mark.engine("recorded")
def test_a_flush_ends_in_time(dspy_traces):
    """While the store does not take them, traces are kept, and a flush says after its time that they wait."""
    callback = MlflowCallback()
    with locked_store():
        with dspy.context(lm=answering(), callbacks=[callback]):
            Program()(question="why?")
        began = time.monotonic()
        assert not callback.flush(timeout=0.1)
        assert time.monotonic() - began < 20  # MLflow's own flush would wait for half a minute
        stats = callback.stats()
        assert (stats.stored, stats.lost, stats.queued >= 1, stats.bytes > 0) == (0, 0, True, True)
    assert callback.flush()
    assert (callback.stats().stored, callback.stats().queued, callback.stats().bytes) == (1, 0, 0)


@pytest.mark.parametrize("timeout", [-1, "1", None, True, float("nan")])
def test_a_wrong_timeout_is_refused(timeout):
    """A time limit that is none raises, and says what was given and what is allowed."""
    with pytest.raises(ValueError, match=f"timeout must be a number of seconds from 0 on, got {timeout!r}"):
        dspy_mlflow_callbacks.flush(timeout)
