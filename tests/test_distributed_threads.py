"""Threads of the user's own: what runs in them is part of the trace that handed them their work."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import dspy
import mlflow
import pytest
from expected import bare, ok, ordered
from joblib import Parallel, delayed
from programs import Program, Runs, answering, program_tree
from stored import run_of
from threads import at_once

from dspy_mlflow_callbacks import (
    MlflowCallback,
    TailSampler,
    TracedThreadPoolExecutor,
    continue_trace,
    inject_headers,
    mlflow_internals,
    propagate,
    suppress_tracing,
    trace_context,
)
from dspy_mlflow_callbacks.spans.open_spans import OPEN_SPANS
from dspy_mlflow_callbacks.spans.remote_traces import REMOTE_TRACES
from dspy_mlflow_callbacks.testing.captured import tree

USAGE = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
QUESTIONS = ["a", "b", "c"]
ON_BOTH = pytest.mark.parametrize("engine", ["auto", "native"], indirect=True)


class Echo(dspy.Module):
    """Answers with its question, and costs tokens: a trace of one span."""

    def forward(self, question="why?"):
        span = mlflow.get_current_active_span()
        if span is not None:
            span.set_attribute("mlflow.chat.tokenUsage", USAGE)
        return question

    async def aforward(self, question="why?"):
        await asyncio.sleep(0)
        return self.forward(question)


@pytest.fixture(autouse=True)
def nothing_left(dspy_traces):
    """Fail a test that leaves a call open, or a trace joined."""
    yield
    assert (len(OPEN_SPANS), len(REMOTE_TRACES)) == (0, 0)


def in_a_pool(function):
    with TracedThreadPoolExecutor(2) as pool:
        return list(pool.map(function, QUESTIONS))


def in_a_plain_pool(function):
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(propagate(function), QUESTIONS))


def in_joblibs_threads(function):
    return Parallel(2, backend="threading")(delayed(propagate(function))(question) for question in QUESTIONS)


def in_asyncios_threads(function):
    async def main():
        return await asyncio.gather(*[asyncio.to_thread(function, question) for question in QUESTIONS])

    return asyncio.run(main())


def in_loops_of_threads(function):
    async def call(question):
        return function(question)

    return at_once(*[lambda each=each: asyncio.run(propagate(call)(each)) for each in QUESTIONS])


WAYS = [in_a_pool, in_a_plain_pool, in_joblibs_threads, in_asyncios_threads]


def module(function):
    """Return a module's function that runs a program in threads, in the context of the module."""
    return lambda _: function(lambda question: Echo()(question=question))


@pytest.mark.parametrize("way", WAYS)
def test_threads_are_part_of_the_trace(dspy_traces, way):
    """A program that runs in the user's own threads is part of the trace, below the call that handed it over."""
    assert Runs(module(way))() == QUESTIONS
    assert dspy_traces.tree() == [bare("Runs", *[bare("Echo")] * 3)]
    assert dspy_traces.one().info.token_usage == {name: 3 * number for name, number in USAGE.items()}


@pytest.mark.parametrize("way", WAYS[:3])
def test_what_holds_around_holds_in_threads(dspy_traces, way):
    """Scopes, settings and the run around the hand-over hold in the threads."""
    around = trace_context(session_id="seven", tags={"team": "search"})
    with mlflow.start_run() as run, around, dspy.context(lm=answering()):
        way(lambda question: Program()(question=question))
    traces = dspy_traces.all()
    assert [tree(trace) for trace in traces] == [[program_tree()]] * 3
    for trace in traces:
        assert run_of(trace) == run.info.run_id
        assert trace.info.tags["team"] == "search"
        assert trace.info.trace_metadata["mlflow.trace.session"] == "seven"


@pytest.mark.parametrize("way", WAYS)
def test_suppression_holds_in_threads(dspy_traces, way):
    """Inside `suppress_tracing` nothing is recorded in threads either."""
    with suppress_tracing():
        Runs(module(way))()
    assert dspy_traces.all() == []


def test_spans_of_ones_own(dspy_traces):
    """`mlflow.start_span` in a thread nests in the call that handed the work over, and programs in it."""

    def work(question):
        with mlflow.start_span("own"):
            Echo()(question=question)

    Runs(lambda _: in_a_pool(work))()
    assert ordered(dspy_traces.tree()) == [bare("Runs", *[ok("own", "UNKNOWN", bare("Echo"))] * 3)]


@ON_BOTH
@pytest.mark.parametrize("metadata", [{}, {"commit": "abc"}])
def test_work_that_begins_after_the_end(dspy_traces, metadata):
    """Work that begins when the root has ended is stored in its trace, below the call that handed it over."""
    handed = []
    with trace_context(metadata=metadata):
        Runs(lambda _: handed.append(propagate(Echo())))()
    mlflow.flush_trace_async_logging()
    at_once(*handed * 3)
    assert dspy_traces.tree() == [bare("Runs", *[bare("Echo")] * 3)]


@ON_BOTH
@pytest.mark.parametrize("metadata", [{}, {"commit": "abc"}])
@pytest.mark.parametrize("is_flushed", [True, False])
def test_work_that_goes_on_after_the_end(dspy_traces, engine, metadata, is_flushed):
    """Work that ends when the root has ended is stored in its trace, with its tokens, as it went."""
    if engine == "native" and mlflow_internals.missing_in_mlflow():
        pytest.skip("this version of MLflow stores nothing that ends when its trace has ended")
    begun, root_ended = threading.Event(), threading.Event()
    threads = []

    def work(_):
        Echo()()
        begun.set()
        assert root_ended.wait(60)
        Echo()()

    def hand_over(_):
        thread = threading.Thread(target=propagate(Runs(work)))
        threads.append(thread)
        thread.start()
        assert begun.wait(60)

    with trace_context(metadata=metadata, tags={"team": "search"}):
        Runs(hand_over)()
    if is_flushed:
        mlflow.flush_trace_async_logging()
    root_ended.set()
    threads[0].join()
    assert dspy_traces.tree() == [bare("Runs", bare("Runs", bare("Echo"), bare("Echo")))]
    info = dspy_traces.one().info
    assert info.token_usage == {name: 2 * number for name, number in USAGE.items()}
    assert metadata.items() <= info.trace_metadata.items()
    assert (info.state, info.tags["team"]) == ("OK", "search")


@pytest.mark.engine("native")
def test_work_of_a_trace_that_mlflow_has_forgotten(dspy_traces):
    """Where MLflow has put a long trace out of its memory meanwhile, the work runs all the same."""

    def hand_over(_):
        otel_id = mlflow_internals.tracer().current_span().get_span_context().trace_id
        entry = mlflow_internals.trace_entry(otel_id)
        mlflow_internals.forget_trace(otel_id, entry)
        (answer,) = at_once(propagate(Echo()))
        mlflow_internals.put_back(otel_id, entry)
        return answer

    assert Runs(hand_over)() == "why?"
    assert len(dspy_traces.spans(name="Runs")) == 1


def test_work_that_began_in_a_part(dspy_traces):
    """What a part of another process's trace hands to a thread may go on when the part has ended."""
    headers, handed = {}, []
    Runs(lambda _: inject_headers(headers))()
    with continue_trace(headers):
        Runs(lambda _: handed.append(propagate(Echo())))()
    at_once(*handed)
    assert dspy_traces.tree() == [bare("Runs", bare("Runs", bare("Echo")))]


@pytest.mark.engine("auto")
def test_a_tail_sampler_decides_about_what_has_ended_with_the_root(dspy_traces):
    """Under a tail sampler a trace ends with its root: what goes on in threads then is not recorded."""
    begun, root_ended = threading.Event(), threading.Event()
    threads = []

    def work(_):
        begun.set()
        assert root_ended.wait(60)
        Echo()()

    def hand_over(_):
        threads.append(threading.Thread(target=propagate(Runs(work))))
        threads[0].start()
        assert begun.wait(60)

    with dspy.context(callbacks=[MlflowCallback(tail_sampler=TailSampler(background_ratio=1.0))]):
        Runs(hand_over)()
        root_ended.set()
        threads[0].join()
    assert dspy_traces.tree() == [bare("Runs", ("Runs", "CHAIN", "ERROR", []))]


def test_work_that_is_abandoned_inside(dspy_traces):
    """What has not ended below a call in a thread when that call ends is closed with it."""

    def forget(_):
        steps = iterate()
        next(steps)
        kept.append(steps)

    def iterate():
        yield Streams()()

    kept = []
    Runs(lambda _: in_a_pool(lambda question: Runs(forget)()))()
    assert ordered(dspy_traces.tree()) == ordered([bare("Runs", *[bare("Runs", bare("Streams"))] * 3)])


class Streams(dspy.Module):
    def forward(self):
        return "done"


def test_every_kind_of_function(dspy_traces):
    """`propagate` takes coroutine functions and generator functions, sync and async, to other threads."""

    async def coroutine():
        return await Echo().acall()

    def generator():
        yield Echo()()

    async def async_generator():
        yield await Echo().acall()

    async def read(stream):
        return [each async for each in stream]

    def hand_over(_):
        carried = [propagate(each) for each in (coroutine, generator, async_generator)]
        at_once(lambda: asyncio.run(carried[0]()), lambda: list(carried[1]()), lambda: asyncio.run(read(carried[2]())))

    Runs(hand_over)()
    assert dspy_traces.tree() == [bare("Runs", *[bare("Echo")] * 3)]


def test_a_pool_takes_whatever_can_be_called():
    """A pool runs classes and built-in functions too, and `submit` hands on arguments of any name."""
    with TracedThreadPoolExecutor(1, thread_name_prefix="mine") as pool:
        assert list(pool.map(int, ["1", "2"])) == [1, 2]
        assert pool.submit(dict, fn=1, self=2, function=3).result() == {"fn": 1, "self": 2, "function": 3}
        assert pool.submit(threading.current_thread).result().name == "mine_0"


@pytest.mark.parametrize("function", [5, Echo])
def test_what_is_no_function_is_refused(function):
    """`propagate` says what it was given."""
    with pytest.raises(TypeError, match="propagate decorates functions, got"):
        propagate(function)


def test_the_thread_is_left_as_it_was(dspy_traces):
    """After the work a pool's thread is in its own context again."""

    def hand_over(_):
        pool.submit(propagate(Echo())).result()

    with ThreadPoolExecutor(1) as pool, dspy.context():
        Runs(hand_over)()
        assert pool.submit(inject_headers).result().get("traceparent") is None


@pytest.mark.warns
def test_work_runs_without_its_trace(monkeypatch, warned):
    """Where MLflow cannot say what is active, the work runs all the same, with one warning."""
    monkeypatch.setenv("MLFLOW_USE_DEFAULT_TRACER_PROVIDER", "nonsense")
    function = propagate(len)
    monkeypatch.delenv("MLFLOW_USE_DEFAULT_TRACER_PROVIDER")
    assert function("why") == 3
    (message,) = warned.messages
    assert message.startswith("A thread's work is not part of the trace that handed it over: ")
