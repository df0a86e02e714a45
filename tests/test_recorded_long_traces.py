"""Traces that run for long: what has ended of them is in the store while the rest goes on."""

from __future__ import annotations

import threading
import time

import attrs
import dspy
import mlflow
import pytest
from expected import bare, ok
from offline_lm import OfflineLM
from programs import Echo, Runs, predict_tree
from sqlalchemy import create_engine, text
from stored import stored_bytes

from dspy_mlflow_callbacks import MlflowCallback, TailSampler
from dspy_mlflow_callbacks.export.exporter import Exporter
from dspy_mlflow_callbacks.spans.long_traces import LongTraces
from dspy_mlflow_callbacks.spans.open_spans import OPEN_SPANS

pytestmark = [pytest.mark.engine("auto"), pytest.mark.usefixtures("nothing_open")]


@pytest.fixture(autouse=True, params=["at once", "in the background"])
def _lm(request, dspy_traces, monkeypatch):
    """Let MLflow and the engine store traces in the thread that ends them, or in the background."""
    if request.param == "in the background":
        monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "true")
        mlflow.tracing.reset()
    with dspy.context(lm=OfflineLM()):
        yield


def wait_for(condition):
    """Wait until *condition* says something true, and return it."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError("it does not come")


def found(traces, count):
    """Return the state and the names of the stored spans of the only trace, if there are *count* of them."""
    infos = mlflow.MlflowClient()._tracing_client.store.search_traces(locations=[traces.experiment_id])[0]
    if not infos:
        return None
    # Not the trace as a whole, which MLflow does not give out until its root is there.
    engine = create_engine(mlflow.get_tracking_uri())
    with engine.connect() as connection:
        rows = connection.execute(
            text("SELECT name FROM spans WHERE trace_id = :id ORDER BY start_time_unix_nano"), {"id": infos[0].trace_id}
        ).fetchall()
    engine.dispose()
    names = [row[0] for row in rows]
    return (infos[0].state.value, names) if len(names) == count else None


class Long:
    """A program that has called something, and waits."""

    def __init__(self, callback, *, before=None, after=None):
        self.called, self.may_go_on = threading.Event(), threading.Event()
        self.before, self.after = before or Echo(), after or Echo()
        settings = {"callbacks": [callback], "lm": OfflineLM()}

        def forward(_):
            self.before()
            self.called.set()
            assert self.may_go_on.wait(timeout=60)
            self.after()

        def work():
            with dspy.context(**settings):
                Runs(forward)()

        self.thread = threading.Thread(target=work)

    def __enter__(self):
        self.thread.start()
        assert self.called.wait(timeout=60)
        return self

    def __exit__(self, *_):
        self.may_go_on.set()
        self.thread.join()


def predict():
    return dspy.Predict("question -> answer")(question="why?")


def test_what_has_ended_is_stored_while_the_rest_goes_on(dspy_traces):
    """Spans that have ended are stored as a trace in progress; in the end the trace is whole, and nothing doubled."""
    callback = MlflowCallback(max_open_s=0.05)
    with Long(callback, before=predict):
        state, names = wait_for(lambda: found(dspy_traces, 4))
        assert state == "IN_PROGRESS"
        assert names == ["Predict", "ChatAdapter.format", "dummy", "ChatAdapter.parse"]
    assert dspy_traces.tree() == [bare("Runs", predict_tree(), bare("Echo"))]
    info = dspy_traces.one().info
    assert (info.state.value, info.token_usage["total_tokens"]) == ("OK", 0)
    assert callback.flush()
    assert (callback.stats().stored, callback.stats().lost) == (1, 0)


def test_tags_come_with_the_end(dspy_traces):
    """What was said of the trace as a whole is there in the end."""
    callback = MlflowCallback(max_open_s=0.05, tags={"team": "search"}, session_id="session", metadata={"mine": "1"})
    with Long(callback):
        wait_for(lambda: found(dspy_traces, 1))
    info = dspy_traces.one().info
    assert (info.tags["team"], info.tags["mlflow.traceName"]) == ("search", "Runs")
    assert info.trace_metadata["mine"] == "1"
    assert info.trace_metadata["mlflow.trace.session"] == "session"


def test_the_users_spans_in_a_long_trace(dspy_traces):
    """The user's own spans in a long trace nest in it, once."""

    def mine():
        with mlflow.start_span("mine"):
            predict()

    with Long(MlflowCallback(max_open_s=0.05), before=mine, after=mine):
        wait_for(lambda: found(dspy_traces, 5) or found(dspy_traces, 4))
    between = ok("mine", "UNKNOWN", predict_tree())
    assert dspy_traces.tree() == [bare("Runs", between, between)]


def test_payloads_are_redacted_before_they_leave(dspy_traces):
    """What leaves early goes through the payload steps first."""

    def secret():
        return Runs(lambda given: given)({"api_key": "sk-verysecret"})

    with Long(MlflowCallback(max_open_s=0.05), before=secret):
        wait_for(lambda: found(dspy_traces, 1))
        assert b"sk-verysecret" not in stored_bytes(dspy_traces)
    assert b"sk-verysecret" not in stored_bytes(dspy_traces)


def trace_of_open_call():
    return next(call.span.trace for call in OPEN_SPANS.calls() if call.span.is_entry)


def test_with_a_tail_sampler_nothing_leaves_early(dspy_traces):
    """A trace that a tail sampler has to decide about is not stored before its end."""
    with Long(MlflowCallback(max_open_s=0.05, tail_sampler=TailSampler())):
        trace = trace_of_open_call()
        trace._delivered_at = float("-inf")
        trace.look()
        assert not any(span.is_delivered for span in trace.spans)
    assert dspy_traces.all() == []


def test_a_program_below_the_users_span_is_stored_so_far(dspy_traces):
    """What has ended of a program below the user's own span is stored, and whole in the end."""

    def forward(_):
        Echo()()
        wait_for(lambda: found(dspy_traces, 1))

    with mlflow.start_span("mine"), dspy.context(callbacks=[MlflowCallback(max_open_s=0.05)]):
        Runs(forward)()
    assert dspy_traces.tree() == [ok("mine", "UNKNOWN", bare("Runs", bare("Echo")))]


class Refusing(Exporter):
    """An exporter that fails with the first thing that it is given."""

    def __init__(self):
        super().__init__()
        self.outcomes = []

    def put(self, trace, limits):
        if self.outcomes:
            super().put(trace, limits)
        else:
            self.outcomes.append("failed")
            trace.prepared()
            trace.done("failed", OSError("no"))


@pytest.mark.parametrize("is_stored", [False, True])
def test_a_part_that_is_not_stored_leaves_with_the_rest(dspy_traces, is_stored):
    """What could not be stored early leaves again with the rest; what could leaves once."""
    with Long(MlflowCallback(max_open_s=3600)):
        trace = trace_of_open_call()
        exporter = Refusing()
        trace._settings = attrs.evolve(trace._settings, exporter=exporter)
        trace._delivered_at = float("-inf")
        if is_stored:
            exporter.outcomes.append("passed")
        trace.look()
        assert exporter.flush(60)
        (root, echo) = trace.spans
        assert (root.is_delivered, echo.is_delivered) == (False, is_stored)
        trace.look()  # too early for another part
    exporter.flush(60)
    assert dspy_traces.tree() == [bare("Runs", bare("Echo"), bare("Echo"))]
    exporter.close(60)


def watching():
    return sum(thread.name == "dspy-mlflow-open-traces" for thread in threading.enumerate())


@pytest.mark.warns
def test_one_thread_watches_for_all(warned):
    """One thread looks at all open traces, as often as the shortest limit wants; one that fails stops no other."""
    looked, before = threading.Semaphore(0), watching()

    class Failing:
        def look(self):
            raise OSError("no")

    class Counting:
        def look(self):
            looked.release()

    watch = LongTraces(lambda: [Failing(), Counting()])
    watch.watch(3600)
    watch.watch(0.01)
    watch.watch(7200)
    for _ in range(5):
        assert looked.acquire(timeout=60)
    assert watching() == before + 1
    assert warned.messages == ["A trace that is open for long could not be stored so far, or given up: OSError('no')"]
