"""Calls that stand in a trace by MLflow's context alone, and outlive it."""

from __future__ import annotations

import contextvars
import threading

import dspy
import pytest
from programs import Calling, Echo

from dspy_mlflow_callbacks import LMCallback, ModuleCallback

pytestmark = pytest.mark.engine("recorded")


def test_a_call_below_one_that_nobody_records_ends_with_its_trace(dspy_traces, nothing_left):
    """A tool that nobody records leaves a thread behind: the call in it is an error, and what it calls is dropped."""
    begun, may_end = threading.Event(), threading.Event()
    inner = Echo()

    class Waiting(dspy.Module):
        def forward(self):
            begun.set()
            may_end.wait()
            return inner()

    threads = []

    def leave_a_thread():
        threads.append(threading.Thread(target=contextvars.copy_context().run, args=(Waiting(),)))
        threads[0].start()
        begun.wait()
        return "left"

    modules = ModuleCallback()
    dspy.configure(callbacks=[modules, LMCallback()])
    assert Calling(dspy.Tool(leave_a_thread))() == "left"
    may_end.set()
    threads[0].join()
    (trace,) = dspy_traces.all()
    assert [(span.name, span.status.status_code.value, span.status.description) for span in trace.data.spans] == [
        ("Calling", "OK", ""),
        ("Waiting", "ERROR", "The call had not ended when its trace ended."),
    ]
    stats = modules.stats()
    assert (stats.started, stats.ended, stats.dropped, stats.open, stats.failed) == (2, 2, 1, 0, 0)
