"""Programs below the user's own MLflow spans, and the user's spans that outlive a program's trace."""

from __future__ import annotations

import contextvars
import threading
import time
from contextlib import contextmanager
from functools import partial

import dspy
import mlflow
import pytest
from expected import bare, failed, ok
from mlflow.tracing.trace_manager import InMemoryTraceManager
from openai_server import usage
from programs import Echo, Program, Runs, predict_tree, program_tree

from dspy_mlflow_callbacks import MlflowCallback
from dspy_mlflow_callbacks.testing.captured import tree

pytestmark = pytest.mark.usefixtures("nothing_open")

TOKENS = dict(zip(("input_tokens", "output_tokens", "total_tokens"), usage().values(), strict=True))


@pytest.fixture(autouse=True)
def _nothing_in_memory(recorded):
    yield
    end = time.monotonic() + 60
    while in_memory() and time.monotonic() < end:
        time.sleep(0.05)
    assert in_memory() == []


def in_memory():
    return list(InMemoryTraceManager.get_instance()._traces)


def mine(*children):
    return ok("mine", "UNKNOWN", *children)


def test_a_program_is_part_of_the_users_trace(dspy_traces):
    """A program below the user's span is in the user's trace, which has the user's request and response."""
    with mlflow.start_span("mine") as span:
        span.set_inputs("asked")
        Program()(question="why?")
        span.set_outputs("said")
    trace = dspy_traces.one()
    assert tree(trace) == [mine(program_tree())]
    assert (trace.info.request_preview, trace.info.response_preview) == ('"asked"', '"said"')
    assert trace.info.state.value == "OK"


def test_tokens_count_in_the_users_trace(dspy_traces, openai_server):
    """The tokens of all programs below the user's root are the trace's."""
    with dspy.context(lm=openai_server.lm("litellm")), mlflow.start_span("mine"):
        for _ in range(2):
            Runs(lambda _: dspy.settings.lm("why?"))()
    assert dspy_traces.one().info.token_usage == {key: 2 * count for key, count in TOKENS.items()}


def test_programs_below_one_root_are_its_children(dspy_traces):
    """Programs below one root, one after the other and in DSPy's threads, are its children, each whole."""
    with mlflow.start_span("mine"):
        Program()(question="first?")
        dspy.Parallel(num_threads=4, disable_progress_bar=True)([(Program(), {"question": f"{n}?"}) for n in range(8)])
    assert dspy_traces.tree() == [mine(*[program_tree()] * 9)]


def test_a_decorated_function_is_a_root(dspy_traces):
    """A program in a function under `mlflow.trace` is below the function's span."""

    @mlflow.trace(name="mine")
    def function(question):
        return Program()(question=question).answer

    assert function("why?") == "some answer"
    assert dspy_traces.tree() == [mine(program_tree())]


def test_an_error_is_the_programs_and_the_users(dspy_traces):
    """An exception that leaves program and user's span makes errors of both, and of the trace."""

    def fails(_):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"), mlflow.start_span("mine"):
        Runs(fails)()
    trace = dspy_traces.one()
    assert tree(trace) == [failed("mine", "UNKNOWN", failed("Runs", "CHAIN"))]
    assert trace.info.state.value == "ERROR"


def test_an_error_that_the_user_handles_is_the_programs(dspy_traces):
    """An exception that the user catches inside their span is an error of the program alone."""

    def fails(_):
        raise ValueError("no")

    with mlflow.start_span("mine"):
        with pytest.raises(ValueError, match="no"):
            Runs(fails)()
        Echo()()
    assert dspy_traces.tree() == [mine(failed("Runs", "CHAIN"), bare("Echo"))]


def test_the_trace_is_updated_from_both_sides(dspy_traces):
    """What the user's span and the program inside it set on the trace is all there."""

    def update(_):
        mlflow.update_current_trace(tags={"inside": "1"}, metadata={"inside": "1"})

    callback = MlflowCallback(engine="recorded", tags={"team": "search"}, session_id="session")
    with dspy.context(callbacks=[callback]), mlflow.start_span("mine"):
        mlflow.update_current_trace(tags={"outside": "1"}, client_request_id="id")
        Runs(update)()
    info = dspy_traces.one().info
    assert {"inside": "1", "outside": "1", "team": "search"}.items() <= info.tags.items()
    assert {"inside": "1", "mlflow.trace.session": "session"}.items() <= info.trace_metadata.items()
    assert info.client_request_id == "id"


def test_spans_and_programs_take_turns(dspy_traces):
    """The user's span, a program, the user's span and a program nest in one trace."""

    def inner(_):
        with mlflow.start_span("inner"):
            return dspy.Predict("question -> answer")(question="why?")

    with mlflow.start_span("mine"):
        Runs(inner)()
    assert dspy_traces.tree() == [mine(bare("Runs", ok("inner", "UNKNOWN", predict_tree())))]


def test_attributes_set_below_the_users_root_stay(dspy_traces):
    """What a module below the user's span sets on its own span is stored."""
    with mlflow.start_span("mine"):
        Runs(lambda _: mlflow.get_current_active_span().set_attribute("key", "value"))()
    (span,) = dspy_traces.spans(name="Runs")
    assert span.get_attribute("key") == "value"


@contextmanager
def outliving(before=lambda: None, after=lambda: None):
    """Run a program in a thread below the user's root; it does *after* once the root has ended and the block too."""
    entered, root_ended = threading.Event(), threading.Event()

    def waits(_):
        before()
        entered.set()
        assert root_ended.wait(timeout=60)
        after()

    with mlflow.start_span("mine"):
        thread = threading.Thread(target=contextvars.copy_context().run, args=(Runs(waits),))
        thread.start()
        assert entered.wait(timeout=60)
    yield
    root_ended.set()
    thread.join()


def test_a_program_that_outlives_the_users_root_is_stored(dspy_traces):
    """A program in a thread that goes on after the user's root has ended is stored whole in the user's trace."""
    with outliving(after=lambda: dspy.Predict("question -> answer")(question="why?")):
        pass
    assert dspy_traces.tree() == [mine(bare("Runs", predict_tree()))]


def test_a_look_after_the_users_root_has_ended(dspy_traces):
    """A program that goes on after the user's root can be looked at, and the user's spans below it are stored."""

    def look():
        with mlflow.start_span("late"):
            mlflow.get_current_active_span().set_attribute("key", "value")

    with outliving(after=look):
        mlflow.flush_trace_async_logging()
    assert dspy_traces.tree() == [mine(bare("Runs", ok("late", "UNKNOWN")))]
    (span,) = dspy_traces.spans(name="late")
    assert span.get_attribute("key") == "value"


def test_a_program_that_was_looked_at_outlives_the_users_root(dspy_traces):
    """Neither does a look at such a program keep it, or the user's root, from being stored."""

    def look(key):
        mlflow.get_current_active_span().set_attribute(key, 1)

    with outliving(partial(look, "before"), partial(look, "after")):
        pass
    trace = dspy_traces.one()
    assert tree(trace) == [mine(bare("Runs"))]
    assert trace.info.trace_metadata["mlflow.trace.infoFinalized"] == "true"
    (span,) = dspy_traces.spans(name="Runs")
    assert (span.get_attribute("before"), span.get_attribute("after")) == (1, 1)


def test_a_users_span_that_outlives_the_program_is_stored(dspy_traces):
    """A span of the user's that ends in a thread after the program's trace has ended is in that trace in the end."""
    entered, program_ended = threading.Event(), threading.Event()
    threads = []

    def in_thread():
        with mlflow.start_span("late"):
            entered.set()
            assert program_ended.wait(timeout=60)

    def starts(_):
        threads.append(threading.Thread(target=contextvars.copy_context().run, args=(in_thread,)))
        threads[0].start()
        assert entered.wait(timeout=60)

    Runs(starts)()
    program_ended.set()
    threads[0].join()
    assert dspy_traces.tree() == [bare("Runs", ok("late", "UNKNOWN"))]


def test_a_span_that_the_user_forgets_to_end_costs_nothing_else(dspy_traces):
    """Of a trace in which the user leaves a span open all the rest is stored."""

    forgotten = []

    def forgets(_):
        forgotten.append(mlflow.start_span_no_context("forgotten", parent_span=mlflow.get_current_active_span()))
        return dspy.Predict("question -> answer")(question="why?")

    Runs(forgets)()
    assert dspy_traces.tree() == [bare("Runs", predict_tree())]
    assert len(in_memory()) == 1  # for the span, which may yet end
    forgotten[0].end()
