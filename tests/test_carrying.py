"""What an engine carries to a worker's process runs there as it would here, and is stored before the engine has it."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from types import SimpleNamespace

import dspy
import mlflow
import pytest
from expected import bare
from offline_lm import OfflineLM
from programs import Calling, Echo, Program, Runs, program_tree
from threads import at_once

from dspy_mlflow_callbacks import (
    MlflowCallback,
    continue_trace,
    dspy_internals,
    inject_headers,
    mlflow_internals,
    suppress_tracing,
)
from dspy_mlflow_callbacks.distributed import attempts
from dspy_mlflow_callbacks.distributed.carrying import Carrying
from dspy_mlflow_callbacks.distributed.draining import Drain
from dspy_mlflow_callbacks.export.exporter import Exporter
from dspy_mlflow_callbacks.spans.foreign_traces import StillOpen
from dspy_mlflow_callbacks.spans.remote_traces import REMOTE_TRACES
from dspy_mlflow_callbacks.testing.captured import tree

ON_BOTH = pytest.mark.parametrize("engine", ["auto", "native"], indirect=True)


@pytest.fixture(autouse=True)
def nothing_joined(dspy_traces):
    """Fail a test that leaves a trace joined."""
    yield
    assert len(REMOTE_TRACES) == 0


def carried(function, **options):
    """Return what *function* is where an engine has taken it."""
    return pickle.loads(pickle.dumps(Carrying(function, **options)))


def elsewhere(function):
    """Return what *function* returns in a thread that has nothing of this one's."""
    return at_once(function)[0]


def stored(dspy_traces):
    """Return the trees that are stored without waiting for them."""
    traces = mlflow.MlflowClient().search_traces(locations=[dspy_traces.experiment_id])
    return [tree(trace) for trace in traces]


@ON_BOTH
def test_a_task_is_part_of_the_trace_that_made_it(dspy_traces):
    """A program that is pickled in a trace runs below it, with the settings of there, in any thread."""

    def send(_):
        with dspy.context(lm=OfflineLM()):
            task = carried(Program())
        return [elsewhere(lambda: task(question="why?")).answer for _ in range(2)]

    assert Runs(send)() == ["some answer"] * 2
    assert dspy_traces.tree() == [bare("Runs", program_tree(), program_tree())]


def test_once_more(dspy_traces):
    """A function that is called again and again is pickled as it was at first, and runs in the trace of now."""
    task = Carrying(Echo())
    assert Runs(lambda _: elsewhere(pickle.loads(pickle.dumps(task.again()))))() == "why?"
    assert dspy_traces.tree() == [bare("Runs", bare("Echo"))]


def test_handed_on(dspy_traces):
    """An engine may pickle it again wherever it passes, and there need be no callback that travels."""
    with dspy.context(callbacks=[]):
        task = Carrying(Echo())
    assert [elsewhere(pickle.loads(pickle.dumps(each))) for each in (task, task, carried(Echo()))] == ["why?"] * 3
    assert stored(dspy_traces) == [[bare("Echo")]] * 3


@ON_BOTH
def test_what_a_task_made_is_stored_when_it_returns(dspy_traces, monkeypatch):
    """An engine may end its worker as soon as it has the task's result: nothing waits any more."""
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "true")
    mlflow.tracing.reset()
    task = carried(Echo())
    elsewhere(lambda: task(question="why?"))
    assert stored(dspy_traces) == [[bare("Echo")]]


def test_without_an_engine(dspy_traces):
    """Called where it was made, or in a thread beside, it is the function in this trace."""
    assert Runs(lambda _: elsewhere(Carrying(Echo())))() == "why?"
    assert dspy_traces.tree() == [bare("Runs", bare("Echo"))]


def test_the_function_may_be_a_lambda_and_raise(dspy_traces):
    """What it raises is raised, once what it made is stored."""

    def fails(question):
        Echo()(question=question)
        raise ValueError(question)

    with pytest.raises(ValueError, match="why"):
        carried(fails)("why?")
    assert stored(dspy_traces) == [[bare("Echo")]]


def test_coroutines_and_generators(dspy_traces):
    """A coroutine runs in the context while it is awaited, a generator in each of its steps."""

    async def answers():
        return await asyncio.to_thread(Echo())

    def streams():
        yield Echo()(question="a")
        yield Echo()(question="b")

    def send(_):
        tasks = carried(answers), carried(streams)
        assert elsewhere(lambda: asyncio.run(tasks[0]())) == "why?"
        assert elsewhere(lambda: list(tasks[1]())) == ["a", "b"]

    Runs(send)()
    assert dspy_traces.tree() == [bare("Runs", bare("Echo"), bare("Echo"), bare("Echo"))]


def test_a_generator_that_is_left(dspy_traces):
    """A generator that its consumer leaves is closed."""
    closed = []

    def streams():
        try:
            yield from range(3)
        finally:
            closed.append(True)

    steps = Carrying(streams)()
    assert next(steps) == 0
    steps.close()
    assert closed == [True]


def test_settings_that_travel():
    """The LM, the adapter and what else is set travel; what is at its default, or of the running call, does not."""
    with dspy.context(lm=OfflineLM(), adapter=dspy.JSONAdapter(), num_threads=3, max_errors=10, trace=[1]):
        assert sorted(dspy_internals.carried_settings()) == ["adapter", "callbacks", "lm", "num_threads"]
        seen = elsewhere(carried(lambda: [type(dspy.settings.adapter).__name__, dspy.settings.num_threads]))
    assert seen == ["JSONAdapter", 3]


def test_settings_that_cannot():
    """A setting that cannot be pickled is named."""
    with (
        dspy.context(rm=threading.Lock()),
        pytest.raises(TypeError, match=r"setting 'rm' cannot be sent to another process: .*with dspy.context"),
    ):
        pickle.dumps(Carrying(Echo()))


def test_what_is_no_function():
    """It has to be something to call."""
    with pytest.raises(TypeError, match="function must be something to call, got 3"):
        Carrying(3)
    assert repr(Carrying(len)) == "Carrying(<built-in function len>)"


def test_sampling_is_decided_where_the_trace_began(dspy_traces):
    """Tasks of a trace that is left out record nothing."""

    def send(_):
        with suppress_tracing():
            return carried(Echo())

    task = Runs(send)()
    elsewhere(task)
    assert dspy_traces.tree() == [bare("Runs")]


def test_tasks_without_a_trace(dspy_traces):
    """A task that is made outside of any trace begins one of its own."""
    elsewhere(carried(Echo()))
    assert dspy_traces.tree() == [bare("Echo")]


def test_other_callbacks_travel_too(dspy_traces):
    """Somebody else's callback among the settings is there as well, as it is."""
    with dspy.context(callbacks=[*dspy.settings.callbacks, dspy.utils.callback.BaseCallback()]):
        task = carried(lambda: [type(each).__name__ for each in dspy.settings.callbacks])
    assert elsewhere(task) == ["MlflowCallback", "BaseCallback"]


def test_a_callback_stays_what_it_was(dspy_traces):
    """A callback of a saved program says in the worker too where it comes from, and what ends is stored each second."""
    callback = MlflowCallback(max_open_s=0.5, tags={"team": "search"})
    callback.comes_from({"source": "a saved one"})
    there = attempts.carried_callback(callback, 1)
    assert (there.config, dict(there.origin)) == (callback.config, {"source": "a saved one"})
    assert attempts.carried_callback(MlflowCallback(), 1).config.max_open_s == attempts.MOST_SECONDS_UNSTORED


def second():
    """Return the number of an attempt, as an engine would say it."""
    return 2


@ON_BOTH
def test_a_further_attempt_says_so(dspy_traces):
    """The outermost span of a second attempt has its number, and the trace a tag."""
    Runs(lambda _: elsewhere(carried(Calling(Echo()), attempt=second)))()
    (trace,) = dspy_traces.all()
    assert [span.get_attribute("dspy.attempt") for span in trace.data.spans] == [None, 2, None]
    assert trace.info.tags["dspy.retried"] == "true"


def test_a_further_attempt_without_a_trace(dspy_traces):
    """Where no trace was begun, or its store does not have it, the spans say it alone."""
    elsewhere(carried(Echo(), attempt=second))
    assert [span.get_attribute("dspy.attempt") for span in dspy_traces.spans()] == [2]


@pytest.mark.warns
def test_a_trace_that_cannot_be_tagged(dspy_traces, warned):
    """Where the trace is not in the store, a warning says that it does not tell of the second attempt."""
    attempts.note_retry({"traceparent": f"00-{7:032x}-{7:016x}-01"})
    assert "A trace does not say that a task was begun again" in warned.messages[0]


def spans(dspy_traces):
    """Return what is stored so far, without waiting for more."""
    traces = mlflow.MlflowClient().search_traces(locations=[dspy_traces.experiment_id])
    return sorted((span.name, str(span.status.status_code.value)) for trace in traces for span in trace.data.spans)


def until(holds):
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end, "it does not come about"
        time.sleep(0.05)


GOES_ON = threading.Event()


def waits(_):
    """Call a program, and go on when the test says so."""
    Echo()()
    GOES_ON.wait(60)


@pytest.mark.engine("recorded")  # the native one stores what has ended alone
def test_what_a_dying_worker_leaves(dspy_traces):
    """While a task runs, what has ended is stored, and what is open as not ended; when it ends, as what it became."""
    GOES_ON.clear()

    def send(_):
        task = carried(Runs(waits))
        worker = threading.Thread(target=task)
        worker.start()
        try:
            until(lambda: spans(dspy_traces) == [("Echo", "OK"), ("Runs", "ERROR")])
        finally:
            GOES_ON.set()
            worker.join()

    with dspy.context(callbacks=[MlflowCallback(max_open_s=0.2)]):
        Runs(send)()
    assert dspy_traces.tree() == [bare("Runs", bare("Runs", bare("Echo")))]


@pytest.mark.engine("recorded")  # the native one stores what has ended alone
def test_what_is_over_is_not_announced(dspy_traces):
    """A task that has ended when its open spans are to be stored has none."""
    announced = []

    def looks(_):
        trace = mlflow_internals.tracer().current_span().trace
        trace._announce_open()
        trace._announce_open()  # once is enough
        announced.append(StillOpen(trace, list(trace.spans)))

    with continue_trace(Runs(lambda _: inject_headers())()):
        Runs(looks)()
    assert announced[0].prepared() is None
    assert announced[0].done("dropped") is None


@pytest.mark.warns
def test_a_store_that_is_away_holds_up_one_task(warned):
    """A task waits for its store only so long, and those after it hardly until it is back."""
    exporter = Exporter()
    drain = Drain(timeout_s=0.05, away_s=0.0, exporter=exporter)
    assert drain()
    entry = exporter._buffer.hold(SimpleNamespace(size=1))
    assert [drain(), drain()] == [False, False]
    assert warned.messages == ["Traces of a task are not stored after 0.05 s; those that follow hardly wait for it."]
    exporter._buffer.leave(entry)
    assert drain()


def test_waiting_for_mlflows_exporter(dspy_traces, monkeypatch):
    """Waiting for what MLflow's exporter has taken ends in time."""
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "true")
    mlflow.tracing.reset()
    with mlflow.start_span("own"):
        pass
    (processor,) = mlflow_internals.tracer().provider._active_span_processor._span_processors
    queue = processor.span_exporter._async_queue._queue
    with queue.all_tasks_done:
        queue.unfinished_tasks += 1
    assert not mlflow_internals.exported(0.01)
    queue.task_done()
    assert mlflow_internals.exported(60.0)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("sqlite:///mlflow.db", "sqlite:///{here}/mlflow.db"),
        ("sqlite:////tmp/mlflow.db", "sqlite:////tmp/mlflow.db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
    ],
)
def test_where_traces_are_kept(monkeypatch, own_folder, tmp_path, said, meant):
    """A database beside the program is found from other folders too; what is elsewhere has its address."""
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: said)
    assert mlflow_internals.tracking_uri() == meant.format(here=tmp_path)


def test_a_worker_goes_to_the_tasks_store(dspy_traces, tmp_path):
    """A worker that keeps its traces elsewhere keeps those of a task where the task says."""
    task, here = carried(Echo()), mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/other.db")
    elsewhere(task)
    assert mlflow.get_tracking_uri() == here
    assert dspy_traces.tree() == [bare("Echo")]
