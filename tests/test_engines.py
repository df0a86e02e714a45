"""Which engine makes the spans: the one that is asked for, or the one that fits where MLflow sends traces."""

from __future__ import annotations

import dspy
import mlflow
import pytest
from programs import Program, answering, program_tree

from dspy_mlflow_callbacks import MlflowCallback, TailSampler, TracingConfig
from dspy_mlflow_callbacks.callbacks import base
from dspy_mlflow_callbacks.config import environment
from dspy_mlflow_callbacks.spans import engine as engines
from dspy_mlflow_callbacks.stats import WarnOnce

pytestmark = pytest.mark.engine("auto")  # no variable is set


@pytest.fixture(autouse=True)
def _nothing_said_yet(monkeypatch):
    """Let each test hear the warnings that a process hears once."""
    for module in (base, engines, environment):
        monkeypatch.setattr(module, "_WARN", WarnOnce())


@pytest.fixture
def elsewhere(request, monkeypatch, tmp_path):
    """Let MLflow send traces to where the recorded engine cannot serve."""
    before = mlflow.get_tracking_uri()
    uris = {"databricks": "databricks", "a folder": tmp_path.as_uri()}
    variables = {
        "an OTLP endpoint": ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1/v1/traces"),
        "a shared context": ("MLFLOW_TRACE_PROPAGATE_TO_OTEL_CONTEXT", "true"),
        "a shared provider": ("MLFLOW_USE_DEFAULT_TRACER_PROVIDER", "false"),
    }
    if request.param in uris:
        mlflow.set_tracking_uri(uris[request.param])
    else:
        monkeypatch.setenv(*variables[request.param])
    yield
    mlflow.set_tracking_uri(before)


ELSEWHERE = pytest.mark.parametrize(
    ("elsewhere", "reason"),
    [
        ("databricks", "the tracking URI is of the kind 'databricks'; allowed are http, https, mssql, mysql, "),
        ("a folder", "the tracking URI is of the kind 'file'; allowed are http, https, mssql, mysql, "),
        ("an OTLP endpoint", "traces go to an OTLP endpoint (OTEL_EXPORTER_OTLP_TRACES_ENDPOINT or "),
        pytest.param(
            "a shared context",
            "MLflow shares OpenTelemetry's context (MLFLOW_TRACE_PROPAGATE_TO_OTEL_CONTEXT=true)",
            marks=pytest.mark.skipif(
                not hasattr(mlflow.environment_variables, "MLFLOW_TRACE_PROPAGATE_TO_OTEL_CONTEXT"),
                reason="MLflow has no such variable yet",
            ),
        ),
        ("a shared provider", "MLflow shares OpenTelemetry's tracer provider (MLFLOW_USE_DEFAULT_TRACER_PROVIDER="),
    ],
    indirect=["elsewhere"],
)


@ELSEWHERE
def test_the_recorded_engine_is_refused_where_it_cannot_serve(elsewhere, reason):
    """`engine="recorded"` raises where traces do not go to a tracking store, and says what is in the way."""
    with pytest.raises(ValueError) as raised:
        MlflowCallback(engine="recorded")
    assert str(raised.value).startswith(f"engine='recorded' cannot serve here: {reason}")


@pytest.mark.warns
@ELSEWHERE
def test_a_variable_for_the_recorded_engine_stops_no_program(monkeypatch, warned, elsewhere, reason):
    """The variable is ignored where the recorded engine cannot serve, and one warning says why."""
    monkeypatch.setenv("DSPY_MLFLOW_ENGINE", "recorded")
    assert [MlflowCallback().config.engine for _ in range(2)] == ["auto", "auto"]
    (message,) = warned.messages
    assert message.startswith(f"DSPY_MLFLOW_ENGINE='recorded' is ignored: {reason}")
    assert message.endswith(". The default stands: auto.")


@pytest.mark.parametrize("verbosity", ["error", "silent"])
def test_verbosity_holds_for_that_variable_too(monkeypatch, verbosity):
    """Nothing is said of the variable where warnings are not wanted."""
    monkeypatch.setenv("DSPY_MLFLOW_ENGINE", "recorded")
    monkeypatch.setenv("MLFLOW_USE_DEFAULT_TRACER_PROVIDER", "false")
    config = TracingConfig.from_env(verbosity=verbosity)
    assert base._with_engine_that_serves(config) == config.with_options(engine="auto")


def test_a_variable_for_the_recorded_engine(monkeypatch, dspy_traces):
    """Where the recorded engine can serve, its variable is obeyed."""
    monkeypatch.setenv("DSPY_MLFLOW_ENGINE", "recorded")
    assert MlflowCallback().config.engine == "recorded"


def test_a_tail_sampler_is_refused_beside_the_native_engine():
    """`engine="native"` has no whole traces to ask a tail sampler about, and says so."""
    with pytest.raises(ValueError, match="tail_sampler: a tail sampler needs whole traces, which engine='native' does"):
        MlflowCallback(engine="native", tail_sampler=TailSampler())


@pytest.mark.warns
@pytest.mark.parametrize(
    ("variables", "options", "ignored", "kept"),
    [
        ({"ENGINE": "native", "TAIL_SAMPLER": "{}"}, {}, "TAIL_SAMPLER", {"engine": "native"}),
        ({"TAIL_SAMPLER": "{}"}, {"engine": "native"}, "TAIL_SAMPLER", {"engine": "native"}),
        ({"ENGINE": "native"}, {"tail_sampler": {}}, "ENGINE", {"tail_sampler": {}}),
    ],
)
def test_variables_that_contradict_stop_no_program(warned, variables, options, ignored, kept):
    """Of a tail sampler and the native engine, the one that a variable says is ignored, and one warning says so."""
    environ = {f"DSPY_MLFLOW_{name}": text for name, text in variables.items()}
    assert TracingConfig.from_env(environ, **options) == TracingConfig(**kept)
    (message,) = warned.messages
    assert message.startswith(f"DSPY_MLFLOW_{ignored} is ignored: a tail sampler needs whole traces, ")


@pytest.mark.parametrize(("engine", "stored"), [("auto", 1), ("recorded", 1), ("native", 0)], indirect=["engine"])
def test_who_stores_a_trace(dspy_traces, engine, stored):
    """The recorded engine stores and counts traces itself, also on `auto`; those of the native one MLflow stores."""
    callback = MlflowCallback(engine=engine)
    with dspy.context(lm=answering(), callbacks=[callback]):
        Program()(question="why?")
    assert dspy_traces.tree() == [program_tree()]
    assert callback.stats().stored == stored


def test_auto_goes_wherever_mlflow_goes(collector):
    """On `auto` nothing is said where the native engine serves, and its spans arrive."""
    callback = MlflowCallback()
    with dspy.context(lm=answering(), callbacks=[callback]):
        Program()(question="why?")
    assert (len(collector.names()), callback.stats().stored) == (6, 0)


@pytest.mark.warns
@pytest.mark.parametrize(
    ("options", "effect"),
    [({"engine": "recorded"}, ""), ({"tail_sampler": TailSampler()}, " Traces are not sampled by tail_sampler.")],
)
def test_the_native_engine_stands_in_later_too(request, dspy_traces, warned, options, effect):
    """Where traces go elsewhere after the callback was made, the native engine serves, and one warning says so."""
    callback = MlflowCallback(**options)
    collector = request.getfixturevalue("collector")
    with dspy.context(lm=answering(), callbacks=[callback]):
        Program()(question="why?")
        Program()(question="why?")
    assert len(collector.names()) == 12
    (message,) = warned.messages
    assert message.startswith("The recorded engine cannot serve here, and the native one does: traces go to an OTLP e")
    assert message.endswith(f"OTEL_EXPORTER_OTLP_ENDPOINT).{effect}")


def test_mlflows_span_processors_see_live_spans(dspy_traces):
    """Where the user gave MLflow functions that see each span, the native engine makes the spans for them."""
    seen = []
    mlflow.tracing.configure(span_processors=[lambda span: seen.append(span.name)])
    try:
        with dspy.context(lm=answering()):
            Program()(question="why?")
    finally:
        mlflow.tracing.configure(span_processors=[])
    assert len(seen) == 6
    assert dspy_traces.tree() == [program_tree()]
