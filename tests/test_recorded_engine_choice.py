"""Which engine serves where: the recorded one where traces go to a tracking store and nowhere else."""

from __future__ import annotations

import threading

import dspy
import mlflow
import pytest
from mlflow import environment_variables
from mlflow.entities.trace_location import MlflowExperimentLocation
from offline_lm import OfflineLM
from programs import Echo, Program, Runs, program_tree
from stored import tracking_to

from dspy_mlflow_callbacks import MlflowCallback, TailSampler, mlflow_internals
from dspy_mlflow_callbacks.mlflow_internals import recorders
from dspy_mlflow_callbacks.spans import engine
from dspy_mlflow_callbacks.spans.muted import Muted
from dspy_mlflow_callbacks.spans.native import NativeSpan
from dspy_mlflow_callbacks.spans.open_spans import OPEN_SPANS
from dspy_mlflow_callbacks.spans.recorded import RecordedSpan
from dspy_mlflow_callbacks.stats import WarnOnce
from dspy_mlflow_callbacks.testing.captured import tree as tree_of

pytestmark = [pytest.mark.engine("auto"), pytest.mark.usefixtures("dspy_traces", "nothing_open")]


@pytest.fixture(autouse=True)
def _afresh(monkeypatch):
    """Let a test hear what the process has been warned of before."""
    monkeypatch.setattr(engine, "_WARN", WarnOnce())
    with dspy.context(lm=OfflineLM()):
        yield


def serves(callback=None, calls=1):
    """Return which kinds of span the calls of a module have had."""
    kinds = set()
    program = Runs(lambda _: kinds.update(type(call.span) for call in OPEN_SPANS.calls()))
    with dspy.context(callbacks=[callback or MlflowCallback()]):
        for _ in range(calls):
            program()
    return kinds


def test_a_database(dspy_traces):
    """Where traces go to an SQL store the recorded engine serves."""
    assert serves() == {RecordedSpan}
    assert serves(MlflowCallback(engine="recorded")) == {RecordedSpan}
    assert serves(MlflowCallback(engine="native")) == {NativeSpan}
    assert len(dspy_traces.all()) == 3


def test_a_tracking_server(httpserver):
    """Where traces go to a tracking server the recorded engine serves, whether the server answers or not."""
    mlflow.set_tracking_uri(httpserver.url_for("/"))
    tracer = mlflow_internals.tracer()
    assert tracer.recorder.tracking_uri == httpserver.url_for("/")


def test_an_otlp_endpoint(collector):
    """Where traces go to an OTLP endpoint the native engine serves."""
    assert serves() == {NativeSpan}
    assert collector.names() == ["Runs"]
    with pytest.raises(ValueError, match="traces go to an OTLP endpoint"):
        MlflowCallback(engine="recorded")


def test_dual_export(collector, dspy_traces, monkeypatch):
    """Where traces go to an OTLP endpoint and to MLflow the native engine serves, and both have them."""
    monkeypatch.setenv("MLFLOW_TRACE_ENABLE_OTLP_DUAL_EXPORT", "true")
    mlflow.tracing.reset()
    assert serves() == {NativeSpan}
    assert collector.names() == ["Runs"]
    assert len(dspy_traces.all()) == 1


def test_tracing_disabled(dspy_traces):
    """Where MLflow's tracing is disabled nothing is recorded, nor warned of."""
    mlflow.tracing.disable()
    assert serves(MlflowCallback(engine="recorded")) <= {Muted, type(None), NativeSpan}
    mlflow.tracing.enable()
    assert dspy_traces.all() == []
    assert serves() == {RecordedSpan}


def test_an_experiment_as_destination(dspy_traces):
    """Where the user chose another experiment the recorded engine serves, and traces are there."""
    other = mlflow.create_experiment("another destination")
    mlflow.tracing.set_destination(MlflowExperimentLocation(experiment_id=other))
    assert serves() == {RecordedSpan}
    assert len(mlflow.search_traces(locations=[other], return_type="list", flush=True)) == 1
    assert dspy_traces.all() == []


def test_span_processors(dspy_traces):
    """Where functions of the user's are to see each span the native engine serves, and they do."""
    seen = []
    mlflow.tracing.configure(span_processors=[lambda span: seen.append(span.name)])
    try:
        assert serves() == {NativeSpan}
    finally:
        mlflow.tracing.configure(span_processors=[])
    assert seen == ["Runs"]
    assert serves() == {RecordedSpan}


def test_a_shared_provider(monkeypatch):
    """Where MLflow shares OpenTelemetry's tracer provider the native engine serves."""
    monkeypatch.setenv("MLFLOW_USE_DEFAULT_TRACER_PROVIDER", "false")
    assert "MLFLOW_USE_DEFAULT_TRACER_PROVIDER" in recorders.why_not_recorded()
    with pytest.raises(ValueError, match="MLflow shares OpenTelemetry's tracer provider"):
        MlflowCallback(engine="recorded")


@pytest.mark.skipif(
    not hasattr(environment_variables, "MLFLOW_TRACE_PROPAGATE_TO_OTEL_CONTEXT"), reason="it came with MLflow 3.15"
)
def test_a_shared_context(dspy_traces, monkeypatch):
    """Where MLflow's spans are to stand in OpenTelemetry's context the native engine serves."""
    monkeypatch.setenv("MLFLOW_TRACE_PROPAGATE_TO_OTEL_CONTEXT", "true")
    mlflow.tracing.reset()
    assert serves() == {NativeSpan}
    assert len(dspy_traces.all()) == 1


def test_databricks_model_serving(monkeypatch):
    """In Databricks' model serving, where MLflow keeps traces for the response, the native engine serves."""
    provider = mlflow_internals.tracer().provider
    monkeypatch.setattr(recorders, "is_in_databricks_model_serving_environment", lambda: True)
    assert recorders.Recorder.find(provider) is None


@pytest.mark.parametrize("uri", ["databricks", "databricks://profile", "/files/mlruns", "file:///files/mlruns"])
def test_other_stores(uri):
    """Where the tracking URI is of another kind the recorded engine refuses, and says which are allowed."""
    kind = r"the tracking URI is of the kind .*; allowed are http, https, mssql"
    with tracking_to(uri), pytest.raises(ValueError, match=kind):
        MlflowCallback(engine="recorded")


def test_another_exporter_or_metrics(dspy_traces):
    """Where MLflow's processor has another exporter, exports metrics, or goes to another store, native serves."""
    provider = mlflow_internals.tracer().provider
    (processor,) = provider._active_span_processor._span_processors
    find = recorders.Recorder.find
    assert find(provider) is not None
    assert find(None) is None
    exporter, processor.span_exporter = processor.span_exporter, object()
    assert find(provider) is None
    processor.span_exporter = exporter
    processor._export_metrics = True
    assert find(provider) is None
    processor._export_metrics = False
    uri, exporter._client.tracking_uri = exporter._client.tracking_uri, "databricks"
    assert find(provider) is None
    exporter._client.tracking_uri = uri
    assert find(provider) is not None


@pytest.mark.parametrize(("ratio", "least", "most"), [("0", 0, 0), ("0.5", 110, 190), ("1", 300, 300)])
def test_mlflows_sampling_ratio(dspy_traces, monkeypatch, ratio, least, most):
    """`MLFLOW_TRACE_SAMPLING_RATIO` keeps its share of the traces, whole, within five standard deviations."""
    monkeypatch.setenv("MLFLOW_TRACE_SAMPLING_RATIO", ratio)
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "true")
    mlflow.tracing.reset()
    callback, program = MlflowCallback(engine="recorded"), Echo()
    with dspy.context(callbacks=[callback]):
        for _ in range(300):
            program()
    assert callback.flush()
    stats = callback.stats()
    assert least <= stats.stored <= most
    assert stats.stored + stats.dropped == 300


def test_a_trace_that_mlflow_drops_is_dropped_whole(dspy_traces, monkeypatch):
    """Of a trace that MLflow's sampler drops nothing is stored, the user's spans inside it neither."""
    monkeypatch.setenv("MLFLOW_TRACE_SAMPLING_RATIO", "0")
    mlflow.tracing.reset()

    def forward(_):
        with mlflow.start_span("mine"):
            Program()(question="why?")

    with dspy.context(callbacks=[MlflowCallback(engine="recorded")]):
        Runs(forward)()
    assert dspy_traces.all() == []


def test_the_tracking_uri_changes_between_calls(dspy_traces, tmp_path):
    """Each trace goes to the store that is set when it begins, also one that is open when it changes."""
    before = mlflow.get_tracking_uri()
    entered, changed = threading.Event(), threading.Event()

    def waits(_):
        entered.set()
        assert changed.wait(timeout=60)

    settings = {"lm": OfflineLM(), "callbacks": [MlflowCallback(engine="recorded", experiment="either")]}

    def in_thread():
        with dspy.context(**settings):
            Runs(waits)()

    thread = threading.Thread(target=in_thread)
    thread.start()
    assert entered.wait(timeout=60)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/other.db")
    with dspy.context(**settings):
        Program()(question="why?")
    changed.set()
    thread.join()
    assert _names() == ["Program"]
    mlflow.set_tracking_uri(before)
    with dspy.context(**settings):
        Echo()()
    assert _names() == ["Echo", "Runs"]


def _names():
    experiment = mlflow.get_experiment_by_name("either").experiment_id
    traces = mlflow.search_traces(locations=[experiment], return_type="list", flush=True)
    return sorted(trace.info.tags["mlflow.traceName"] for trace in traces)


@pytest.mark.warns
def test_recorded_that_cannot_serve_later(collector, warned, monkeypatch):
    """`recorded` takes the native engine where it cannot serve any more, and says so once."""
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    mlflow.tracing.reset()
    callback = MlflowCallback(engine="recorded")
    assert serves(callback) == {RecordedSpan}
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", collector.url)
    mlflow.tracing.reset()
    assert serves(callback, calls=3) == {NativeSpan}
    (message,) = warned.messages
    assert message.startswith("The recorded engine cannot serve here, and the native one does: traces go to an OTLP")


@pytest.mark.warns
def test_a_tail_sampler_that_cannot_sample(collector, warned):
    """`auto` with a tail sampler says once that traces are not sampled where the native engine serves."""
    callback = MlflowCallback(tail_sampler=TailSampler())
    assert serves(callback, calls=3) == {NativeSpan}
    (message,) = warned.messages
    assert message.endswith(" Traces are not sampled by tail_sampler.")


@pytest.mark.warns
def test_a_processor_beside_mlflows(warned):
    """`recorded` beside the user's span processors says what is in its way."""
    mlflow.tracing.configure(span_processors=[lambda span: None])
    try:
        assert serves(MlflowCallback(engine="recorded")) == {NativeSpan}
    finally:
        mlflow.tracing.configure(span_processors=[])
    assert warned.messages == [
        "The recorded engine cannot serve here, and the native one does: MLflow has span processors beside its own."
    ]


@pytest.mark.warns
def test_a_release_without_what_is_needed(dspy_traces, warned, monkeypatch):
    """On an MLflow that lacks what the recorded engine stands on, `auto` takes the native one and says so once."""
    monkeypatch.setattr(recorders, "_NEEDED", ((mlflow, "no_such_name"), (mlflow, "nor_this"), (mlflow, "trace")))
    mlflow.tracing.reset()
    assert serves(calls=2) == {NativeSpan}
    with dspy.context(callbacks=[MlflowCallback()]):
        Program()(question="why?")
    assert program_tree() in [tree for trace in dspy_traces.all() for tree in tree_of(trace)]
    missing = f"MLflow {mlflow.__version__} has no no_such_name, nor_this."
    assert warned.messages == [f"The recorded engine cannot serve here, and the native one does: {missing}"]
    with pytest.raises(ValueError, match=r"has no no_such_name, nor_this\. engine='auto' takes the native"):
        MlflowCallback(engine="recorded")
