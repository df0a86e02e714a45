"""What goes wrong in the program is recorded and reaches the caller; what goes wrong in tracing does not."""

from __future__ import annotations

import asyncio
import threading

import attrs
import dspy
import mlflow
import pytest
from programs import Program, Waits, answering, predict_tree, program_tree

from dspy_mlflow_callbacks import CallKind, MlflowCallback, RatioSampler


class Failing(dspy.Module):
    """Raises what it is given, after a call that goes well."""

    def __init__(self, error):
        super().__init__()
        self.error = error
        self.predict = dspy.Predict("question -> answer")

    def forward(self):
        self.predict(question="why?")
        raise self.error


class HostileError(Exception):
    def __str__(self):
        raise RuntimeError("no text")


@pytest.fixture(autouse=True)
def _lm():
    with dspy.context(lm=answering()):
        yield


@pytest.mark.parametrize("error", [ValueError("bad \ud800 text"), KeyboardInterrupt(), SystemExit(3), HostileError()])
def test_an_exception_is_recorded_and_reaches_the_caller(dspy_traces, error):
    """A raising call's span has the status ERROR and the exception as an event; the caller gets the very exception."""
    with pytest.raises(type(error)) as caught:
        Failing(error)()
    assert caught.value is error
    assert dspy_traces.tree() == [("Failing", "CHAIN", "ERROR", [predict_tree("Failing.predict")])]
    (event,) = dspy_traces.spans(name="Failing")[0].events
    assert (event.name, event.attributes["exception.type"]) == ("exception", type(error).__name__)
    assert "in forward" in event.attributes["exception.stacktrace"]
    assert dspy_traces.one().info.state == "ERROR"


def test_an_exception_that_is_caught_below_leaves_the_root_well(dspy_traces):
    """Only the spans that an exception passes have the status ERROR."""

    class Catching(dspy.Module):
        def __init__(self):
            super().__init__()
            self.failing = Failing(ValueError("no"))

        def forward(self):
            try:
                self.failing()
            except ValueError:
                return "caught"

    Catching()()
    failing = ("Catching.failing", "CHAIN", "ERROR", [predict_tree("Catching.failing.predict")])
    assert dspy_traces.tree() == [("Catching", "CHAIN", "OK", [failing])]


def test_a_cancelled_call_ends_its_spans(dspy_traces):
    """A cancelled `acall` is recorded as an error with the cancellation as its event, and nothing stays open."""
    program = Waits()

    async def cancel():
        task = asyncio.create_task(program.acall())
        await program.started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await Program().acall(question="after")

    asyncio.run(cancel())
    waiting, after = dspy_traces.all()
    assert [span.status.status_code for span in waiting.data.spans] == ["ERROR"]
    assert waiting.data.spans[0].events[0].attributes["exception.type"] == "CancelledError"
    assert len(after.data.spans) == 6


def test_calls_that_outlive_their_trace_are_closed_as_errors(dspy_traces):
    """A call that has not ended when its root ends is closed with the reason, and its late events are dropped."""
    callback, release, running, late = MlflowCallback(), threading.Event(), threading.Event(), []

    class Slow(dspy.Module):
        def __init__(self):
            super().__init__()
            self.predict = dspy.Predict("question -> answer")

        def forward(self):
            running.set()
            release.wait()
            return self.predict(question="late")

    class Root(dspy.Module):
        def __init__(self):
            super().__init__()
            self.slow = Slow()

        def forward(self):
            import contextvars

            late.append(threading.Thread(target=contextvars.copy_context().run, args=(self.slow,)))
            late[0].start()
            running.wait()

    with dspy.context(callbacks=[callback]):
        Root()()
    assert dspy_traces.tree() == [("Root", "CHAIN", "OK", [("Root.slow", "CHAIN", "ERROR", [])])]
    (slow,) = dspy_traces.spans(name="Root.slow")
    assert slow.status.description == "The call had not ended when its trace ended."
    release.set()
    late[0].join()
    assert callback.stats().open == 0
    assert len(dspy_traces.all()) == 1


@pytest.mark.warns
@pytest.mark.parametrize(
    ("nonsense", "message"),
    [(lambda call: 1 / 0, "raised ZeroDivisionError"), (lambda call: "call", "returned str")],
)
def test_a_broken_middleware_costs_its_span_only(dspy_traces, warned, nonsense, message):
    """The program goes on, the other calls nest as if the lost one were not there; counted, and warned of once."""

    def broken(call):
        return nonsense(call) if type(call.instance).__name__ == "ChainOfThought" else call

    callback = MlflowCallback(middleware=[broken])
    with dspy.context(callbacks=[callback]):
        assert Program()(question="why?").answer == "42"
        assert Program()(question="why?").answer == "42"
    predict = predict_tree("Program.generate.predict")
    first, second = dspy_traces.all()
    assert len(first.data.spans) == len(second.data.spans) == 5
    assert [span.name for span in first.data.spans if span.parent_id is None] == ["Program"]
    assert predict[0] in [span.name for span in first.data.spans]
    assert callback.stats().failed == 2
    (warning,) = warned.records
    assert message in warning.getMessage()
    assert warning.exc_info is not None


@pytest.mark.warns
def test_a_broken_middleware_at_the_root_leaves_the_calls_below(dspy_traces, warned):
    """A root whose span is lost leaves a trace for each call below it."""

    def broken(call):
        return 1 / 0 if call.is_root and type(call.instance) is Program else call

    with dspy.context(callbacks=[MlflowCallback(middleware=[broken])]):
        Program()(question="why?")
    assert [trace.info.tags["mlflow.traceName"] for trace in dspy_traces.all()] == ["ChainOfThought"]
    assert len(warned.records) == 1


@pytest.mark.warns
def test_a_broken_on_end_withholds_what_the_call_returned(dspy_traces, warned):
    """A middleware that fails at the end leaves a closed span without outputs, marked as incomplete."""

    class Broken:
        def __call__(self, call):
            return call

        def on_end(self, end):
            raise KeyError("secret")

    callback = MlflowCallback(middleware=[Broken()])
    with dspy.context(callbacks=[callback]):
        Program()(question="why?")
    assert dspy_traces.tree() == [program_tree()]
    assert {span.outputs for span in dspy_traces.spans()} == {None}
    assert {span.get_attribute("dspy_mlflow_callbacks.incomplete") for span in dspy_traces.spans()} == {True}
    assert (callback.stats().failed, len(warned.records)) == (6, 1)


def test_a_blocking_middleware_holds_up_its_own_call_only(dspy_traces):
    """While one thread's middleware blocks, calls in other threads are traced."""
    blocked, release = threading.Event(), threading.Event()

    def block(call):
        if call.is_root and call.inputs["kwargs"].get("question") == "block":
            blocked.set()
            release.wait()
        return call

    lm, callback = answering(), MlflowCallback(middleware=[block])

    def work():
        with dspy.context(lm=lm, callbacks=[callback]):
            Program()(question="block")

    thread = threading.Thread(target=work)
    thread.start()
    blocked.wait()
    with dspy.context(callbacks=[callback]):
        Program()(question="free")
    assert [trace.data.request for trace in dspy_traces.all()] == ['{"question":"free"}']
    release.set()
    thread.join()
    assert len(dspy_traces.all()) == 2


@pytest.mark.warns
@pytest.mark.parametrize("changes", [{"tags": 7}, {"metadata": 7}, {"level": "LOUD"}])
def test_a_middleware_that_sets_nonsense_costs_its_span_only(dspy_traces, warned, changes):
    """Tags or a level that no span can have cost the span; the context is as before, and one warning says why."""

    def nonsense(call):
        return attrs.evolve(call, **changes) if call.kind is CallKind.LM else call

    callback = MlflowCallback(middleware=[nonsense])
    with dspy.context(callbacks=[callback]):
        assert Program()(question="why?").answer == "42"
    assert mlflow.get_current_active_span() is None
    assert (callback.stats().failed, callback.stats().open, len(warned.records)) == (1, 0, 1)
    assert [span.name for span in dspy_traces.spans(kind="lm")] == []
    assert len(dspy_traces.one().data.spans) == 5


@pytest.mark.warns
@pytest.mark.parametrize("engine", ["recorded", "native"], indirect=True)
def test_a_payload_that_mlflow_refuses_leaves_a_span_without_it(dspy_traces, warned, monkeypatch):
    """Where MLflow cannot take binary data, the span is closed without inputs and the trace is whole otherwise."""
    monkeypatch.setenv("MLFLOW_TRACE_MAX_ATTACHMENT_SIZE", "nonsense")

    def look(image: str) -> int:
        return len(image)

    tool = dspy.Tool(look)

    class Looking(dspy.Module):
        def forward(self):
            return tool(image="data:image/png;base64,iVBORw0KGgo=")

    Looking()()
    assert mlflow.get_current_active_span() is None
    assert [(span.name, span.inputs) for span in dspy_traces.spans()] == [("Looking", {}), ("look", None)]
    (message,) = warned.messages
    assert "MLFLOW_TRACE_MAX_ATTACHMENT_SIZE" in message


@pytest.mark.warns
def test_an_engine_that_fails_is_not_noticed(dspy_traces, warned, monkeypatch):
    """Tracing that cannot open spans costs the spans: the program runs, one warning says why, nothing stays open."""

    callback = MlflowCallback()
    monkeypatch.setenv("MLFLOW_USE_DEFAULT_TRACER_PROVIDER", "nonsense")
    with dspy.context(callbacks=[callback]):
        examples = [dspy.Example(question="why?").with_inputs("question")] * 2
        answers = Program().batch(examples, disable_progress_bar=True)
    monkeypatch.delenv("MLFLOW_USE_DEFAULT_TRACER_PROVIDER")
    assert [answer.answer for answer in answers] == ["42", "42"]
    assert (callback.stats().open, callback.stats().started) == (0, 0)
    context, span = warned.messages
    assert context == "MLflow's context does not reach DSPy's worker threads."
    assert "MLFLOW_USE_DEFAULT_TRACER_PROVIDER" in span


def test_a_dropped_root_drops_its_whole_trace(dspy_traces):
    """Nothing below a dropped root is recorded: DSPy's calls, the user's own spans, work in threads."""

    class Tracing(dspy.Module):
        def __init__(self):
            super().__init__()
            self.program = Program()

        def forward(self):
            with mlflow.start_span("mine"):
                mlflow.get_current_active_span()
                return self.program.batch(
                    [dspy.Example(question="why?").with_inputs("question")] * 3, disable_progress_bar=True
                )

    callback = MlflowCallback(middleware=[RatioSampler(0.0)])
    with dspy.context(callbacks=[callback]):
        Tracing()()
    assert dspy_traces.all() == []
    assert callback.stats().open == 0


def test_a_dropped_call_drops_what_is_below_it_and_nothing_else(dspy_traces):
    """A middleware that drops one module leaves the rest of the trace whole."""

    def drop(call):
        return None if type(call.instance).__name__ == "ChainOfThought" else call

    class Two(dspy.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = dspy.ChainOfThought("question -> answer"), dspy.Predict("question -> answer")

        def forward(self):
            self.first(question="why?")
            return self.second(question="why?")

    with dspy.context(callbacks=[MlflowCallback(middleware=[drop])]):
        Two()()
    assert dspy_traces.tree() == [("Two", "CHAIN", "OK", [predict_tree("Two.second")])]


def test_sampling_keeps_traces_whole_in_threads(dspy_traces):
    """Of 60 calls with threads inside, half of the traces are kept and each of them is whole (fault 1)."""

    class Fan(dspy.Module):
        def __init__(self):
            super().__init__()
            self.predict = dspy.Predict("question -> answer")

        def forward(self):
            return dspy.Parallel(num_threads=2, disable_progress_bar=True)([(self.predict, {"question": "why?"})] * 2)

    with dspy.context(lm=answering(times=200), callbacks=[MlflowCallback(middleware=[RatioSampler(0.5)])]):
        for _ in range(60):
            Fan()()
    sizes = [len(trace.data.spans) for trace in dspy_traces.all()]
    assert set(sizes) == {9}
    assert 10 < len(sizes) < 50
