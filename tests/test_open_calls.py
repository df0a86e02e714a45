"""Calls whose end never comes: they are closed as errors when nothing has happened in their trace for a while."""

from __future__ import annotations

import gc
import threading
from contextvars import copy_context

import dspy
import mlflow
import pytest
from ended import wait_until
from expected import bare
from programs import Echo, Runs

from dspy_mlflow_callbacks import MlflowCallback, RatioSampler
from dspy_mlflow_callbacks.events import SpanEnd
from dspy_mlflow_callbacks.spans.open_spans import OPEN_SPANS, OpenCall, OpenSpans, TraceCalls
from dspy_mlflow_callbacks.spans.silence import _QuietTrace

REASON = "No call of its trace had started or ended for 0.2 seconds."

pytestmark = pytest.mark.usefixtures("nothing_open")


class Never:
    """Is awaited for ever."""

    def __await__(self):
        yield


class Hanging(dspy.Module):
    """Calls something, and then waits until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go_on = threading.Event()
        self.echo = Echo()

    def forward(self, question: str = "why?") -> str:
        self.echo()
        assert self.may_go_on.wait(timeout=60)
        return self.echo()

    async def aforward(self, question: str = "why?") -> str:
        await Never()


@pytest.fixture
def hanging():
    """Return a program that hangs, in a thread that goes on when the test has ended."""
    hanging = Hanging()
    yield hanging
    hanging.may_go_on.set()


def in_thread(program, callback):
    """Run a program in a thread, and then another that does not hang."""

    def work():
        with dspy.context(callbacks=[callback]):
            program()
            Echo()(question="afterwards")

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_call_that_hangs_is_closed_as_an_error(dspy_traces, hanging):
    """When nothing has happened in a trace for so long its calls are closed as errors that say so, and it is stored."""
    callback = MlflowCallback(max_silent_s=0.2)
    thread = in_thread(Runs(lambda _: hanging()), callback)
    wait_until(lambda: callback.stats().ended == 3)
    given_up = ("Runs", "CHAIN", "ERROR", [("Hanging", "CHAIN", "ERROR", [bare("Hanging.echo")])])
    assert dspy_traces.tree() == [given_up]
    spans = dspy_traces.one().data.spans
    assert [span.status.description for span in spans if span.name != "Hanging.echo"] == [REASON] * 2
    assert (callback.stats().open, callback.stats().started, callback.stats().abandoned) == (0, 3, 2)
    # It goes on after all: what it still calls is dropped, and what comes then is traced as ever.
    hanging.may_go_on.set()
    thread.join()
    assert [len(trace.data.spans) for trace in dspy_traces.all()] == [3, 1]
    assert (callback.stats().failed, callback.stats().open) == (0, 0)


class Owner:
    """Gives traces up as soon as nothing has happened since the last look."""

    max_silent_s = 0.0

    def __init__(self):
        self.given_up = 0

    def give_up(self, trace):
        self.given_up += 1


def test_a_trace_in_which_calls_start_and_end_is_left_alone():
    """A trace stays open as long as a call has started or ended since the last look, however short the limit."""
    spans, owner = OpenSpans(), Owner()
    trace = TraceCalls(owner)
    for call_id in ("root", "child"):
        spans.add(call_id, OpenCall(call_id, object(), None, owner, trace))
        _QuietTrace(trace).look()
    spans.take("child")
    _QuietTrace(trace).look()
    assert owner.given_up == 0
    _QuietTrace(trace).look()
    assert owner.given_up == 1


def hang_until_forgotten(hanging, callback):
    """Let a call hang until nothing is known of it any more, then go on."""
    thread = in_thread(hanging, callback)
    wait_until(lambda: callback.stats().dropped == 1)
    wait_until(lambda: callback.stats().open == 0)
    hanging.may_go_on.set()
    thread.join()


def test_a_dropped_call_that_hangs_is_forgotten(dspy_traces, hanging):
    """A dropped call is not held for ever; what its thread does after it is traced as ever."""
    callback = MlflowCallback(max_silent_s=0.2, exclude=["Hanging*"])
    hang_until_forgotten(hanging, callback)
    assert dspy_traces.tree() == [bare("Echo")]


@pytest.mark.engine("native")
def test_a_call_that_mlflow_drops_and_that_hangs_is_forgotten(dspy_traces, hanging, monkeypatch):
    """What MLflow's own sampling drops is not held for ever either."""
    monkeypatch.setenv("MLFLOW_TRACE_SAMPLING_RATIO", "0")
    mlflow.tracing.reset()
    callback = MlflowCallback(max_silent_s=0.2, engine="native")
    hang_until_forgotten(hanging, callback)
    assert (dspy_traces.all(), callback.stats().failed) == ([], 0)


@pytest.mark.engine("native")
def test_what_a_fork_inherits_is_ended_by_its_parent(dspy_traces):
    """The end of a call that began before a fork takes its span out of the fork's context, and does not end it."""
    calls = []

    def inherit(_):
        calls.extend(OPEN_SPANS.calls())
        calls[0].is_inherited = True  # as in a process that is forked here

    Runs(inherit)()
    assert mlflow.get_current_active_span() is None
    assert dspy_traces.all() == []
    calls[0].span.otel.end()  # as the parent does
    assert [span.name for span in dspy_traces.one().data.spans] == ["Runs"]


@pytest.mark.parametrize("middleware", [[], [RatioSampler(0)]], ids=["recorded", "sampled out"])
def test_thousands_of_calls_that_never_end_are_forgotten(dspy_traces, monkeypatch, middleware, engine):
    """Coroutines that nobody goes on with hold no call, and no more of ours than a bounded number of ids."""
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "true")
    mlflow.tracing.reset()
    callback = MlflowCallback(max_silent_s=0.2, middleware=middleware)
    count = 900 if engine == "native" else 1_200  # MLflow has a thousand traces in memory
    with dspy.context(callbacks=[callback]):
        coroutines = [Hanging().acall() for _ in range(count)]
        contexts = [copy_context() for _ in coroutines]
        for context, coroutine in zip(contexts, coroutines, strict=True):
            context.run(coroutine.send, None)
        wait_until(lambda: callback.stats().open == 0 and (middleware or callback.stats().ended == count))
        gc.collect()
        held = [each for each in gc.get_objects() if isinstance(each, OpenCall)]
        assert len(held) <= 1
        assert len(OPEN_SPANS.calls()) <= 1_000
        for context, coroutine in zip(contexts, coroutines, strict=True):
            context.run(coroutine.close)  # their ends come after all
    stats = callback.stats()
    assert (stats.started, stats.ended, stats.dropped) == ((0, 0, count) if middleware else (count, count, 0))
    assert (stats.abandoned, stats.failed, stats.lost) == (0 if middleware else count, 0, 0)


def test_an_end_and_giving_up_at_once_close_a_call_once(dspy_traces):
    """Where a call ends while it is given up, one of both closes it."""
    callback = MlflowCallback()
    with dspy.context(callbacks=[callback]):
        Runs(lambda _: [callback._tracing.give_up(call.trace) for call in OPEN_SPANS.calls()])()
    assert dspy_traces.tree() == [("Runs", "CHAIN", "ERROR", [])]
    assert (callback.stats().ended, callback.stats().abandoned) == (1, 1)
    (call,) = [OpenCall("id", object(), None, None, OPEN_SPANS.take("unknown").trace)]
    OPEN_SPANS._calls["id"] = call  # as when another thread has taken it out of its trace just now
    assert OPEN_SPANS.take("id").call_id is None


def test_a_call_that_another_thread_is_giving_up_is_left_to_it(dspy_traces):
    """A call that ends when another thread has just taken it out of its trace is closed by that one."""
    taken = []

    def take(_):
        (call,) = OPEN_SPANS.calls()
        taken.append(call.trace.pop(call.call_id))

    callback = MlflowCallback()
    with dspy.context(callbacks=[callback]):
        Runs(take)()
    assert callback.stats().ended == 0
    taken[0].span.close(SpanEnd(error=REASON))
    assert dspy_traces.tree() == [("Runs", "CHAIN", "ERROR", [])]
