"""Traces are there when MLflow expects them: in an evaluation, a model's prediction, a notebook."""

from __future__ import annotations

import sys
from types import ModuleType

import dspy
import mlflow
import pytest
from expected import bare
from mlflow.entities import Feedback
from mlflow.tracing.display import IPythonTraceDisplayHandler
from offline_lm import OfflineLM
from programs import Echo, Program, Runs, program_tree

from dspy_mlflow_callbacks import MlflowCallback, TailSampler
from dspy_mlflow_callbacks.testing.captured import tree

pytestmark = pytest.mark.usefixtures("nothing_open")


@pytest.fixture(autouse=True, params=["at once", "in the background"])
def callback(request, dspy_traces, monkeypatch, own_folder):
    """Return the callback; MLflow and the engine store traces in the thread that ends them, or in the background."""
    monkeypatch.setenv("MLFLOW_GENAI_EVAL_SKIP_TRACE_VALIDATION", "true")
    if request.param == "in the background":
        monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "true")
        mlflow.tracing.reset()
    callback = MlflowCallback(engine="recorded")
    settings = {"lm": OfflineLM(), "callbacks": [callback]}
    with dspy.context(**settings):
        yield callback


@pytest.mark.parametrize("look", [False, True], ids=["", "looked at"])
def test_a_scorer_reads_the_trace(dspy_traces, callback, look):
    """In `mlflow.genai.evaluate` each scorer gets the whole trace of the program's call, and its feedback is stored."""
    seen = []

    @mlflow.genai.scorer
    def has_spans(trace):
        seen.append(tree(trace))
        return Feedback(value=len(trace.data.spans) > 0, rationale="so")

    settings = {"lm": dspy.settings.lm, "callbacks": [callback]}

    def predict(question):
        with dspy.context(**settings):
            if look:
                return Runs(lambda _: mlflow.update_current_trace(tags={"a": "1"}))(question)
            return Program()(question=question).answer

    data = [{"inputs": {"question": f"{number}?"}} for number in range(3)]
    mlflow.genai.evaluate(data=data, predict_fn=predict, scorers=[has_spans])
    expected = [bare("Runs")] if look else [program_tree()]
    assert seen == [expected] * 3
    traces = dspy_traces.all()
    assert [tree(trace) for trace in traces] == [expected] * 3
    assert [[each.name for each in trace.info.assessments] for trace in traces] == [["has_spans"]] * 3


def test_a_program_in_the_users_own_span_is_evaluated(dspy_traces, callback):
    """In an evaluation, a program below the user's own span is in the trace that the scorer gets."""
    seen = []

    @mlflow.genai.scorer
    def has_spans(trace):
        seen.append(tree(trace))
        return True

    settings = {"lm": dspy.settings.lm, "callbacks": [callback]}

    @mlflow.trace(name="mine")
    def predict(question):
        with dspy.context(**settings):
            return Program()(question=question).answer

    mlflow.genai.evaluate(data=[{"inputs": {"question": "why?"}}], predict_fn=predict, scorers=[has_spans])
    assert seen == [[("mine", "UNKNOWN", "OK", [program_tree()])]]


def test_a_model_of_mlflows_is_traced(dspy_traces):
    """A DSPy program that MLflow loads as a model is traced when it predicts, with the model's id."""
    info = mlflow.dspy.log_model(Program(), name="program", input_example={"question": "why?"})
    model = mlflow.pyfunc.load_model(info.model_uri)
    before = {trace.info.trace_id for trace in dspy_traces.all()}
    assert model.predict({"question": "why?"})["answer"] == "some answer"
    (trace,) = [trace for trace in dspy_traces.all() if trace.info.trace_id not in before]
    assert tree(trace) == [program_tree()]
    assert trace.info.trace_metadata["mlflow.modelId"] == info.model_id


def test_an_active_model_has_its_traces(dspy_traces):
    """Traces that begin while a model is active are linked to it."""
    with mlflow.set_active_model(name="mine") as model:
        Program()(question="why?")
    assert dspy_traces.one().info.trace_metadata["mlflow.modelId"] == model.model_id


@pytest.fixture
def shown(monkeypatch):
    """Make of this process a notebook's, and return what MLflow shows in it."""
    shown = []
    ipython = ModuleType("IPython")
    ipython.get_ipython = lambda: None
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setattr("dspy_mlflow_callbacks.mlflow_internals.live_traces.is_trace_ui_available", lambda: True)
    monkeypatch.setattr(IPythonTraceDisplayHandler, "display_traces", lambda self, traces: shown.append(list(traces)))
    return shown


def test_a_notebook_shows_the_trace(dspy_traces, shown):
    """In a notebook MLflow's display is handed each trace that has ended, and it is in the store by then."""
    found = []

    def note():
        return [trace.info.trace_id for trace in mlflow.search_traces(return_type="list", **here)]

    here = {"locations": [dspy_traces.experiment_id]}
    Program()(question="why?")
    found = note()  # without a flush
    ((trace,),) = shown
    assert found == [trace.info.trace_id]
    assert sorted(span.name for span in trace.data.spans) == sorted(span.name for span in dspy_traces.one().data.spans)
    assert trace.info.state.value == "OK"


def test_a_notebook_shows_the_users_spans_too(dspy_traces, shown):
    """What a notebook shows of a trace has the user's own spans in it, and is redacted."""

    def forward(given):
        with mlflow.start_span("mine"):
            mlflow.update_current_trace(tags={"tag": "1"})

    Runs(forward)({"api_key": "sk-verysecret"})
    ((trace,),) = [each for each in shown if each]
    assert [span.name for span in trace.data.spans] == ["Runs", "mine"]
    assert trace.info.tags["tag"] == "1"
    assert "sk-verysecret" not in trace.to_json()


def test_a_notebook_shows_no_trace_that_is_dropped(dspy_traces, shown):
    """What the tail sampler drops is not shown."""
    with dspy.context(callbacks=[MlflowCallback(tail_sampler=TailSampler())]):
        Echo()()
    assert shown == []
    assert dspy_traces.all() == []


def test_a_notebook_shows_nothing_during_an_evaluation(dspy_traces, callback, shown):
    """Traces of an evaluation are not shown one by one, as MLflow does it."""
    settings = {"lm": dspy.settings.lm, "callbacks": [callback]}

    def predict(question):
        with dspy.context(**settings):
            return Echo()(question)

    @mlflow.genai.scorer
    def good(outputs):
        return True

    mlflow.genai.evaluate(data=[{"inputs": {"question": "why?"}}], predict_fn=predict, scorers=[good])
    assert shown == []
    assert len(dspy_traces.all()) == 1
