"""The exporter process under load: nothing is lost or doubled."""

from __future__ import annotations

import os
import signal

import pytest
from ended import EndedTrace, new_destination, spans_of_a_trace, stored_ids, wait_until

from dspy_mlflow_callbacks.export.exporter import Exporter
from dspy_mlflow_callbacks.export.waiting import Limits

LIMITS = Limits()


@pytest.fixture
def destination(tmp_path):
    return new_destination(f"sqlite:///{tmp_path}/mlflow.db", "exporter process")


def test_under_load_the_killed_process_loses_and_doubles_nothing(destination):
    """A process that is killed in the middle of a load leaves every trace stored once."""
    own = Exporter()
    traces = [EndedTrace(destination, spans=spans_of_a_trace(1)) for _ in range(3000)]
    rest = iter(traces)

    def put_until(condition):
        for trace in rest:
            own.put(trace, LIMITS)
            if condition():
                return
            if own.queued > 500:
                wait_until(lambda: own.queued <= 500 or condition())
        pytest.fail("the load is over too soon")

    helper = own._delivery._helper
    put_until(lambda: helper._process is not None and helper._process._is_ready and helper._process._number > 2)
    os.kill(helper._process.pid, signal.SIGKILL)
    for trace in rest:
        own.put(trace, LIMITS)
    assert own.flush(100)
    assert {trace.outcome() for trace in traces} == {"stored"}
    assert stored_ids(destination) == sorted(trace.id for trace in traces)
    own.close(60)
    assert helper._deaths == 1
