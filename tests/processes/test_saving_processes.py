"""Saved programs are traced in fresh processes without a line of code: pyfunc, streams, `mlflow models serve`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import cloudpickle
import dspy
import mlflow
import pytest
from dspy.utils.dummies import DummyLM
from joblib import Parallel, delayed
from mlflow.models import infer_signature

from dspy_mlflow_callbacks import MlflowCallback, attach, log_model, save_program

PREDICT = 'import sys, mlflow; print(mlflow.pyfunc.load_model(sys.argv[1]).predict({"question": "why?"})["answer"])'
STREAM = """
import sys, mlflow
print(list(mlflow.pyfunc.load_model(sys.argv[1]).predict_stream({"question": "why?"})))
"""
LOAD = """
import sys, dspy
from dspy.utils.dummies import DummyLM
from dspy_mlflow_callbacks import load_program
dspy.configure(lm=DummyLM([{"reasoning": "because", "answer": "42"}]))
print(load_program(sys.argv[1], allow_pickle=True)(question="why?").answer)
"""
PLAIN_LOAD = LOAD.replace("from dspy_mlflow_callbacks import load_program\n", "").replace("load_program(", "dspy.load(")


def program():
    return attach(dspy.ChainOfThought("question -> answer"), MlflowCallback(tags={"team": "search"}))


def logged(**arguments):
    lm = DummyLM([{"reasoning": "because", "answer": "42"}] * 20)
    signature = infer_signature({"question": "why?"}, {"answer": "42"})
    with dspy.context(lm=lm):
        return log_model(program(), name="answers", signature=signature, pip_requirements=["dspy"], **arguments)


def python(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def traces():
    return mlflow.search_traces(return_type="list")


@pytest.mark.parametrize("code", [LOAD, PLAIN_LOAD])
def test_a_saved_program_is_traced_in_a_fresh_process(store, tmp_path, code):
    """`load_program`, and DSPy's own `dspy.load`, bring a program back that is traced."""
    save_program(program(), tmp_path / "program")
    assert python(code, tmp_path / "program").strip() == "42"
    assert [trace.info.tags["team"] for trace in traces()] == ["search"]


@pytest.mark.parametrize(("code", "use_dspy_model_save"), [(PREDICT, False), (PREDICT, True), (STREAM, False)])
def test_a_logged_model_is_traced_in_a_fresh_process(store, code, use_dspy_model_save):
    """`predict` and `predict_stream` of a model that pyfunc loads are traced, as the logged model's."""
    info = logged(use_dspy_model_save=use_dspy_model_save)
    assert "42" in python(code, info.model_uri)
    (trace,) = traces()
    assert trace.info.tags["team"] == "search"
    assert trace.info.trace_metadata["mlflow.modelId"] == info.model_id


def test_a_served_model_is_traced(store, tmp_path):
    """`mlflow models serve` answers over HTTP, and each request is one trace of the logged model."""
    info = logged()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # it starts `uvicorn`
    command = ["-m", "mlflow", "models", "serve", "-m", info.model_uri, "--env-manager", "local", "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, *command, "--host", "127.0.0.1"],
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=environment,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        until(lambda: is_up(url) or server.poll() is not None)
        assert server.poll() is None, (tmp_path / "log").read_text()[-3000:]
        body = json.dumps({"inputs": {"question": "why?"}}).encode()
        request = urllib.request.Request(f"{url}/invocations", body, {"Content-Type": "application/json"})  # noqa: S310  (ours)
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310  (the test's own server)
            assert "42" in answer.read().decode()
        until(traces)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
    (trace,) = traces()
    assert trace.info.trace_metadata["mlflow.modelId"] == info.model_id
    assert trace.info.tags["team"] == "search"


def until(holds, seconds=100.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it does not come about"
        time.sleep(0.2)


def is_up(url):
    try:
        with urllib.request.urlopen(f"{url}/ping", timeout=5):  # noqa: S310  (the test's own server)
            return True
    except (urllib.error.URLError, OSError):
        return False


def test_an_attached_program_goes_into_loky_processes():
    """joblib's processes, which start afresh, get a program with its callback."""
    team = eval("lambda p: p.callbacks[0].config.tags['team']", {})  # noqa: S307  (by value: the test's folder is not theirs)
    assert Parallel(n_jobs=2)(delayed(team)(program()) for _ in range(2)) == ["search"] * 2


def test_an_attached_program_goes_into_spawned_processes(tmp_path):
    """A program that was pickled with cloudpickle has its callback in a process that starts afresh."""
    file = Path(tmp_path / "program.pkl")
    file.write_bytes(cloudpickle.dumps(program()))
    code = "import sys, cloudpickle; print(cloudpickle.load(open(sys.argv[1], 'rb')).callbacks[0].config.tags)"
    assert "search" in python(code, file)
