"""When a trace is in the store: after each way to flush, at the interpreter's exit, or before the call returns."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import dspy
import mlflow
import pytest
from mlflow.tracing.processor.base_mlflow import flush_all_batch_processors
from offline_lm import OfflineLM
from programs import Program, program_tree

import dspy_mlflow_callbacks
from dspy_mlflow_callbacks import MlflowCallback
from dspy_mlflow_callbacks.testing.captured import tree

pytestmark = pytest.mark.usefixtures("nothing_open")


@pytest.fixture
def callback(dspy_traces, monkeypatch):
    """Return the callback; traces are stored in the background."""
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "true")
    mlflow.tracing.reset()
    callback = MlflowCallback(engine="recorded")
    with dspy.context(lm=OfflineLM(), callbacks=[callback]):
        yield callback


def search(callback, traces):
    mlflow.search_traces(locations=[traces.experiment_id], flush=True)


WAYS = {
    "callback.flush": lambda callback, traces: callback.flush(),
    "flush": lambda callback, traces: dspy_mlflow_callbacks.flush(),
    "flush_trace_async_logging": lambda callback, traces: mlflow.flush_trace_async_logging(),
    "search_traces": search,
}


@pytest.mark.parametrize("flush", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("terminated", [False, True], ids=["", "after terminate"])
def test_each_flush_waits_for_all(dspy_traces, callback, flush, terminated):
    """After any flush all that has ended is stored, also when MLflow's own exporters were terminated before."""
    if terminated:
        flush_all_batch_processors(terminate=True)
    for number in range(50):
        Program()(question=f"{number}?")
    flush(callback, dspy_traces)
    assert (callback.stats().stored, callback.stats().queued) == (50, 0)
    stored = mlflow.search_traces(locations=[dspy_traces.experiment_id], return_type="list", max_results=100)
    assert [tree(trace) for trace in stored] == [[program_tree()]] * 50


def test_to_flush_nothing_is_to_be_done(callback):
    """With nothing to store a flush says at once that all is stored."""
    assert callback.flush(0)
    assert dspy_mlflow_callbacks.flush(timeout=0)


@pytest.mark.parametrize("timeout", [-1, float("nan"), "1", True, None])
def test_a_time_that_makes_no_sense_is_refused(timeout):
    """A flush refuses what is no number of seconds, by name."""
    with pytest.raises(ValueError, match="timeout must be a number of seconds from 0 on, got"):
        dspy_mlflow_callbacks.flush(timeout)


def test_without_mlflows_asynchronous_logging(dspy_traces, monkeypatch):
    """With `MLFLOW_ENABLE_ASYNC_TRACE_LOGGING=false` a trace is in the store when its call returns."""
    callback = MlflowCallback(engine="recorded")
    assert os.environ["MLFLOW_ENABLE_ASYNC_TRACE_LOGGING"] == "false"
    with dspy.context(lm=OfflineLM(), callbacks=[callback]):
        Program()(question="why?")
    trace = mlflow.MlflowClient().get_trace(mlflow.get_last_active_trace_id())
    assert tree(trace) == [program_tree()]


PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
import dspy, mlflow
from offline_lm import OfflineLM
from programs import Program
from dspy_mlflow_callbacks import MlflowCallback

mlflow.set_tracking_uri({uri!r})
dspy.configure(lm=OfflineLM(), callbacks=[MlflowCallback({options})])
for _ in range(20):
    Program()(question="why?")
{rest}
print("the end", flush=True)
"""


def run(folder, uri, *, options="engine='recorded'", rest=""):
    """Run a program to its end in a process of its own, and return what it printed and logged."""
    file = folder / "program.py"
    file.write_text(PROGRAM.format(tests=str(Path(__file__).parent), uri=uri, options=options, rest=rest))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    environment |= {"MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(
        [sys.executable, str(file)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "the end" in done.stdout, done.stderr
    return done


def stored_in(uri):
    traces = mlflow.MlflowClient(uri).search_traces(locations=["0"])
    return [tree(trace) for trace in traces]


@pytest.mark.parametrize("rest", ["", "sys.exit(3)"], ids=["ends", "exits"])
def test_at_exit_all_is_stored(tmp_path, rest):
    """A program that ends without a flush leaves all its traces in the store."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    rest = f"print('the end', flush=True); {rest}" if rest else ""
    done = run(tmp_path, uri, rest=rest)
    assert done.returncode == (3 if rest else 0)
    assert stored_in(uri) == [[program_tree()]] * 20


def test_at_exit_a_running_trace_is_lost_and_no_other(tmp_path):
    """A trace that is open when the program exits does not keep the others, or the process, from the end."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    rest = """
import threading
entered = threading.Event()
class Waits(dspy.Module):
    def forward(self):
        entered.set()
        threading.Event().wait()
settings = dict(dspy.settings.config)
def work():
    with dspy.context(callbacks=settings["callbacks"]):
        Waits()()
threading.Thread(target=work, daemon=True).start()
entered.wait()
"""
    assert run(tmp_path, uri, rest=rest).returncode == 0
    assert stored_in(uri) == [[program_tree()]] * 20


def test_at_exit_a_store_that_is_away_holds_nobody_up(tmp_path):
    """With a limit of no time and a server that is away, the program ends, and says what it could not store where."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    done = run(tmp_path, uri, options="engine='recorded', exit_timeout_s=0")
    assert done.returncode == 0
    assert f"Traces are not stored in {uri}: " in done.stderr
