"""What all tests share: silence is tested, and no test sees another's settings."""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid

# Before dspy is imported: LiteLLM would download its price map, MLflow would send telemetry, and DSPy would answer
# from what it once cached in the user's folder.
os.environ["DSPY_CACHEDIR"] = tempfile.mkdtemp(prefix="dspy_cache_")
# A test that traces without the fixture must not write into the folder it runs in.
os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{tempfile.mkdtemp(prefix='mlflow_')}/mlflow.db"
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["DO_NOT_TRACK"] = "true"
# Nor may the user's own spool get a test's traces, or give it others.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="state_")

import dspy
import mlflow
import pytest
from cli_store import cli_traces, run_cli  # noqa: F401  (fixtures)
from dspy.dsp.utils.settings import thread_local_overrides
from mlflow.tracing.processor import base_mlflow
from mlflow.tracing.trace_manager import InMemoryTraceManager
from mlflow.tracking import fluent
from offline_lm import OfflineLM
from openai_server import OpenAIServer
from otlp_collector import Collector
from tracking_server import TrackingServer
from warned import Warnings

from dspy_mlflow_callbacks import MlflowCallback, TracingConfig, dspy_internals, mlflow_internals
from dspy_mlflow_callbacks.config import variable_of
from dspy_mlflow_callbacks.spans.engine import ENGINES
from dspy_mlflow_callbacks.spans.open_spans import OPEN_SPANS
from dspy_mlflow_callbacks.stats import logger
from dspy_mlflow_callbacks.testing import capture_traces

_STATE = os.environ["XDG_STATE_HOME"]

# The options of whoever runs the tests are not the tests'.
for _variable in [name for name in os.environ if name.startswith("DSPY_MLFLOW_")]:
    del os.environ[_variable]


def pytest_addoption(parser):
    """Let the same tests run on either engine."""
    parser.addoption("--engine", choices=ENGINES, default="auto", help="the engine, where a test does not ask for one")


# What is said of the recorded engine alone, of what it delivers with, and of the defaults: on the native one there is
# nothing to see.
_OF_THE_DEFAULT_ENGINE = ("test_recorded_", "test_export_", "test_docs_")


# What says nothing of engines: where both engines serve, it is run once. The oldest versions have the native one alone.
_OF_NO_ENGINE = (
    "test_autostart",
    "test_cli",
    "test_compare_",
    "test_config",
    "test_demos",
    "test_doctor_cli",
    "test_events",
    "test_hostile_config",
    "test_hostile_otlp",
    "test_memory_store",
    "test_middleware",
    "test_optimizer_runs",
    "test_prices",
    "test_program_fingerprint",
    "test_pytest_plugin",
    "test_readme",
    "test_replay_",
    "test_secrets",
    "test_security",
    "test_signatures",
    "test_spool_cli",
    "test_structure",
    "test_usage",
)


def pytest_ignore_collect(collection_path, config):
    """Leave out, on the native engine, what is not about it."""
    if config.getoption("--engine") != "native":
        return None
    left_out = _OF_THE_DEFAULT_ENGINE + (() if mlflow_internals.missing_in_mlflow() else _OF_NO_ENGINE)
    return True if collection_path.name.startswith(left_out) else None


@pytest.fixture(autouse=True)
def _own_spool(monkeypatch):
    """Give each test a spool of its own."""
    monkeypatch.setenv("XDG_STATE_HOME", f"{_STATE}/{uuid.uuid4().hex}")


@pytest.fixture(autouse=True)
def engine(request, monkeypatch):
    """Let the test run on the engine of `--engine`, or on that of its marker or parameter, and return its name.

    The programs that a test starts inherit it. On `auto`, the default, no variable is set.
    """
    marker = request.node.get_closest_marker("engine")
    asked = marker.args[0] if marker else request.config.getoption("--engine")
    name = getattr(request, "param", asked)
    if name != "native" and mlflow_internals.missing_in_mlflow():
        pytest.skip("this version of MLflow has not what the recorded engine needs")
    if name != "auto":
        monkeypatch.setenv(variable_of("engine"), name)
    return name


@pytest.fixture(scope="session")
def store_folder(tmp_path_factory):
    """Return a store's folder: setting up the database takes seconds, so the tests of a process share it."""
    return tmp_path_factory.mktemp("dspy_traces")


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """Return a real tracking server, which takes 15 s to start."""
    server = TrackingServer(tmp_path_factory.mktemp("server")).start()
    yield server
    server.stop()


@pytest.fixture
def dspy_traces(store_folder, engine):
    """Capture the test's traces in a real SQLite store, on the test's engine, else as the public fixture does."""
    with capture_traces(store_folder) as traces, _on(engine):
        yield traces


@pytest.fixture
def memory_traces(engine):
    """Capture the test's traces in memory, on the test's engine, as the public fixture does."""
    with capture_traces() as traces, _on(engine):
        yield traces


def _on(engine):
    if engine == "auto":
        return contextlib.nullcontext()
    # Not by `dspy.configure`: inside a `dspy.context` of another fixture that is not heard.
    return dspy_internals.restored_settings(callbacks=[MlflowCallback(config=TracingConfig(engine=engine))])


@pytest.fixture(autouse=True)
def warned(request):
    """Fail a test during which DSPy or this package warned of a callback, unless it is marked `warns`.

    A test marked so reads the warnings here.
    """
    warnings = Warnings().listen()
    yield warnings
    warnings.leave()
    if not request.node.get_closest_marker("warns"):
        assert warnings.messages == []


@pytest.fixture(autouse=True)
def _settings():
    """Put DSPy's settings and our logger's level back after each test, and keep answers out of the next one's cache."""
    dspy.cache.reset_memory_cache()
    level, experiment = logger.level, fluent._active_experiment_id
    variables = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
    with dspy_internals.restored_settings(lm=None, adapter=None, callbacks=[]):
        yield
    logger.setLevel(level)
    fluent._active_experiment_id = experiment
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)  # `set_experiment` sets it
    os.environ.update(variables)
    InMemoryTraceManager.get_instance()._traces.clear()  # what a test of lost traces has left there
    _end_threads_of_exporters()
    if mlflow.get_active_model_id() is not None:
        mlflow.clear_active_model()  # a loaded one: MLflow writes it to each later trace


def _end_threads_of_exporters():
    """End the threads that MLflow stores traces with, where a test had any: a later flush waits a second for each."""
    for processor in list(getattr(base_mlflow, "_batch_processor_registry", ())):
        queue = getattr(processor.span_exporter, "_async_queue", None)
        if queue is not None and queue.is_active():
            queue.flush(terminate=True)


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """Let files that MLflow writes where the process is, such as `./mlruns`, lie in the test's own folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def openai_server(httpserver):
    """Return a server of OpenAI's chat completions, text completions and responses on a free port."""
    return OpenAIServer(httpserver)


@pytest.fixture
def collector(httpserver, dspy_traces, monkeypatch):
    """Return an OTLP collector to which MLflow sends the traces, instead of to its store."""
    collector = Collector(httpserver, monkeypatch)
    yield collector
    collector.spans()  # what is still to be sent would find no server


@contextlib.contextmanager
def _recording(monkeypatch, *, in_background):
    if in_background:
        monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "true")
        mlflow.tracing.reset()
    callback = MlflowCallback(engine="recorded")
    with dspy.context(lm=OfflineLM(), callbacks=[callback]):
        yield callback


@pytest.fixture(params=["at once", "in the background"])
def recorded(request, dspy_traces, monkeypatch):
    """Return the callback; MLflow and the engine store traces in the thread that ends them, or in the background."""
    with _recording(monkeypatch, in_background=request.param == "in the background") as callback:
        yield callback


@pytest.fixture
def background_callback(dspy_traces, monkeypatch):
    """Return the callback; MLflow and the engine store traces in the background."""
    with _recording(monkeypatch, in_background=True) as callback:
        yield callback


@pytest.fixture
def nothing_open():
    """Fail a test that leaves a call open."""
    yield
    assert len(OPEN_SPANS) == 0


@pytest.fixture
def nothing_left(dspy_traces):
    """Fail a test that leaves a call open, or DSPy's context other than it was."""
    before = thread_local_overrides.get()
    yield
    assert len(OPEN_SPANS) == 0
    assert thread_local_overrides.get() == before
    assert dspy_internals.active_call_id() is None
