"""What a fork of the process finds. The parts of a fork are called by hand here; `processes/test_fork.py` forks."""

from __future__ import annotations

import threading

import attrs
import dspy
import mlflow
import pytest
from ended import wait_until
from expected import bare
from mlflow.tracing.export.async_export_queue import Task
from mlflow.tracing.provider import _get_trace_exporter
from mlflow.tracing.trace_manager import InMemoryTraceManager
from programs import Echo, Runs

from dspy_mlflow_callbacks import MlflowCallback
from dspy_mlflow_callbacks.dspy_internals import active_call_id
from dspy_mlflow_callbacks.forks import Forks
from dspy_mlflow_callbacks.mlflow_internals.forking import _Forking, _processors
from dspy_mlflow_callbacks.mlflow_internals.stores import client_of
from dspy_mlflow_callbacks.spans.open_spans import OPEN_SPANS
from dspy_mlflow_callbacks.stats import Counters
from dspy_mlflow_callbacks.testing.captured import tree
from dspy_mlflow_callbacks.tracing import _inherit

pytestmark = pytest.mark.usefixtures("nothing_open")


def test_a_fork_waits_for_threads_and_for_locks():
    """Before a fork threads come to their end, and locks are taken; afterwards they are free."""
    forks, may_end = Forks(), threading.Event()
    lock = forks.lock()
    thread = threading.Thread(target=may_end.wait)
    forks.start(thread)
    threading.Timer(0.1, may_end.set).start()
    forks._before()
    assert (thread.is_alive(), lock.locked()) == (False, True)
    forks._after_in_parent()
    assert not lock.locked()


def test_a_thread_that_forks_does_not_wait_for_itself():
    """A fork that is made in a thread for whose end forks wait is made at once."""
    forks = Forks()
    forks.wait_for_threads_s = float("inf")
    done = threading.Event()

    def fork():
        forks._before()
        forks._after_in_parent()
        done.set()

    forks.start(threading.Thread(target=fork))
    assert done.wait(60)


def test_a_fork_counts_from_nothing():
    """What the parent has counted, and read, is the parent's: a fork's counts begin at 0."""
    counters = Counters()
    for _ in range(3):
        counters.started()
    assert counters.stats(open=0, queued=0, bytes=0).started == 3
    counters._restart()
    assert counters.stats(open=0, queued=0, bytes=0).started == 0
    counters.started()
    assert counters.stats(open=0, queued=0, bytes=0).started == 1


def fork(_):
    """Call something, be the fork from then on, and call something else; return the id of the span around."""
    Echo()(question="before")
    span = OPEN_SPANS.get(active_call_id()).span
    _inherit()
    Echo()(question="after")
    return getattr(span, "span_id", None)


def hiding(name):
    return lambda call: attrs.evolve(call, is_hidden=True) if call.name == name else call


FORKED = {
    "in a recorded call": ({}, Runs(fork)),
    "in a hidden call": ({"middleware": [hiding("Runs.function")]}, Runs(Runs(fork))),
}


@pytest.mark.engine("recorded")
@pytest.mark.parametrize(("options", "program"), FORKED.values(), ids=FORKED)
def test_a_fork_adds_to_the_trace_around_it(dspy_traces, options, program):
    """A fork stores what it calls below the span that it was made in, and leaves what was open to the parent."""
    callback = MlflowCallback(**options)
    with dspy.context(callbacks=[callback]):
        above = program()
    (span,) = dspy_traces.spans()
    assert (span.name, span.inputs["question"], span.parent_id) == ("Echo", "after", f"{above:016x}")
    assert callback.stats().ended == 2  # the Echos


@pytest.mark.engine("recorded")
def test_a_fork_adds_to_the_users_span_around_it(dspy_traces):
    """What a fork calls inside the user's own span nests in that."""

    def within(_):
        with mlflow.start_span("mine"):
            fork(_)

    Runs(within)()
    mine, after = dspy_traces.spans()
    assert (mine.name, after.name, after.inputs["question"]) == ("mine", "Echo", "after")
    assert after.parent_id == mine.span_id
    InMemoryTraceManager.get_instance()._traces.clear()  # where it would wait for its end in the parent


@pytest.mark.engine("recorded")
def test_a_fork_below_a_hidden_root_has_traces_of_its_own(dspy_traces):
    """Where the call that makes the fork is hidden and in no trace, what runs before and after it is a trace each."""
    with dspy.context(callbacks=[MlflowCallback(middleware=[hiding("Runs")])]):
        Runs(fork)()
    assert [tree(trace) for trace in dspy_traces.all()] == [[bare("Echo")]] * 2


@pytest.mark.engine("recorded")
def test_a_fork_in_a_dropped_call_is_dropped(dspy_traces):
    """Below a call that is left out a fork records nothing either, and what comes after that call is recorded."""
    with dspy.context(callbacks=[MlflowCallback(exclude=["Runs"])]):
        Runs(fork)()
        Echo()()
    assert dspy_traces.tree() == [bare("Echo")]


@pytest.fixture
def queue(dspy_traces, monkeypatch):
    """Return the queue of MLflow's own exporter, which stores in the background."""
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "true")
    mlflow.tracing.reset()
    with mlflow.start_span("the first"):
        pass
    mlflow.flush_trace_async_logging()
    return _get_trace_exporter()._async_queue


def test_mlflows_exporter_is_at_rest_before_a_fork(queue):
    """A fork waits for what MLflow's exporter is at, which begins nothing new meanwhile; then it goes on."""
    may_end, done, forking = threading.Event(), [], _Forking()
    queue.put(Task(lambda: done.append(may_end.wait(60)), ()))
    wait_until(lambda: any(not task.done() for task in list(queue._active_tasks)))
    threading.Timer(0.1, may_end.set).start()
    forking._before()
    assert done == [True]
    assert queue._worker_threadpool._shutdown_lock.locked()
    forking._after_in_parent()
    assert not queue._worker_threadpool._shutdown_lock.locked()
    queue.put(Task(done.append, ("after",)))
    queue.flush()
    assert done == [True, "after"]


@pytest.fixture
def as_in_a_fork(monkeypatch):
    """Let this process renew connections as a fork does, and know nothing of it afterwards."""
    monkeypatch.setattr(client_of, "_renewed", set())
    monkeypatch.setattr(client_of, "_of_parent", [])

    def begin():
        for _, queue in _processors():
            if queue is not None:
                queue.flush(terminate=True)  # a fork has no threads
        _Forking()._after_in_child()

    return begin


def stored_names(traces):
    return [span.name for trace in traces.all() for span in trace.data.spans]


def test_mlflows_exporter_is_empty_in_a_fork(dspy_traces, queue, as_in_a_fork):
    """What waits in the queue of MLflow's exporter is the parent's to store; the fork stores its own."""
    done = []
    queue.flush(terminate=True)
    queue._queue.put(Task(done.append, ("the parent's",)))
    processor = next(each for each, its_queue in _processors() if its_queue is queue)
    processor._pending_on_end_count = 1
    as_in_a_fork()
    assert processor._pending_on_end_count == 0
    with mlflow.start_span("the fork's"):
        pass
    assert stored_names(dspy_traces) == ["the first", "the fork's"]
    assert done == []


def test_mlflows_exporter_that_has_no_queue_begins_anew_too(dspy_traces, as_in_a_fork):
    """Where MLflow stores spans in the thread that ends them a fork does, over connections of its own."""
    with mlflow.start_span("the parent's"):
        pass
    pool = client_of(mlflow.get_tracking_uri()).store.engine.pool
    as_in_a_fork()
    assert client_of(mlflow.get_tracking_uri()).store.engine.pool is not pool
    with mlflow.start_span("the fork's"):
        pass
    assert stored_names(dspy_traces) == ["the parent's", "the fork's"]


def test_what_goes_to_an_otlp_backend_goes_there_from_a_fork(collector, as_in_a_fork):
    """An exporter without a store has no connections to renew, and sends what a fork traces."""
    with mlflow.start_span("the parent's"):
        pass
    as_in_a_fork()
    with mlflow.start_span("the fork's"):
        pass
    assert [span.name for span in collector.spans()] == ["the parent's", "the fork's"]
