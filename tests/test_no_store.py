"""A store that cannot be written: the program runs unchanged, and one warning says what is not stored and why."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

PROGRAM = """
import logging, os, sys, warnings
import dspy, mlflow
from dspy.utils.dummies import DummyLM
from dspy_mlflow_callbacks import MlflowCallback, flush

{setup}
dspy.configure(lm=DummyLM([{{"answer": "42"}}] * 9), callbacks=[MlflowCallback()])
print([dspy.Predict("question -> answer")(question="why?").answer for _ in range(3)])
{teardown}
"""


def run(setup: str, folder: Path, teardown: str = "flush(timeout=1)", **environment: str):
    """Run a program of three calls in a process of its own, which waits a second for a store that is away."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(setup=setup, teardown=teardown)],
        cwd=folder,
        env={
            **os.environ,
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
            "DSPY_MLFLOW_EXIT_TIMEOUT_S": "1",
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def warnings_of_ours(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if "Traces are not stored in" in line]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """Set up a database once; each test works on a copy."""
    folder = tmp_path_factory.mktemp("template")
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    client.create_experiment("there", artifact_location=folder.as_uri())
    return folder / "mlflow.db"


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_an_unreachable_server(tmp_path, closed_port):
    """A tracking server that is away is named in one warning, without the credentials of its address."""
    uri = f"http://user:secret@127.0.0.1:{closed_port}"
    done = run("", tmp_path, MLFLOW_TRACKING_URI=uri)
    assert (done.returncode, done.stdout) == (0, "['42', '42', '42']\n")
    (warning,) = warnings_of_ours(done.stderr)
    assert f"Traces are not stored in http://127.0.0.1:{closed_port}: " in warning
    assert "secret" not in warning


DELETED = """
experiment = mlflow.set_experiment("there")
mlflow.delete_experiment(experiment.experiment_id)
"""


@pytest.mark.engine("native")
def test_a_deleted_experiment(tmp_path, store):
    """An experiment that is deleted meanwhile is named in one warning where MLflow stores its traces."""
    shutil.copy(store, tmp_path)
    done = run(DELETED, tmp_path, MLFLOW_TRACKING_URI="sqlite:///mlflow.db")
    assert (done.returncode, done.stdout) == (0, "['42', '42', '42']\n")
    (warning,) = warnings_of_ours(done.stderr)
    assert "must be in the 'active' state" in warning


@pytest.mark.engine("recorded")
def test_a_deleted_experiment_that_is_restored(tmp_path, store):
    """Batches go to an experiment that is deleted meanwhile all the same: who restores it finds its traces."""
    shutil.copy(store, tmp_path)
    teardown = """
flush()
client = mlflow.MlflowClient()
client.restore_experiment(experiment.experiment_id)
print(len(mlflow.search_traces(locations=[experiment.experiment_id], return_type="list")))
"""
    done = run(DELETED, tmp_path, teardown, MLFLOW_TRACKING_URI="sqlite:///mlflow.db")
    assert (done.returncode, done.stdout) == (0, "['42', '42', '42']\n3\n")
    assert warnings_of_ours(done.stderr) == []


def test_a_read_only_disk(tmp_path, store):
    """A database that cannot be written is named in one warning, with its reason."""
    shutil.copy(store, tmp_path)
    uri = f"sqlite:///file:{tmp_path / 'mlflow.db'}?mode=ro&uri=true"
    done = run("", tmp_path, MLFLOW_TRACKING_URI=uri, MLFLOW_EXPERIMENT_ID="1")
    assert (done.returncode, done.stdout) == (0, "['42', '42', '42']\n")
    (warning,) = warnings_of_ours(done.stderr)
    assert "readonly database" in warning


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs a folder in which not even root can write")
def test_a_database_that_cannot_be_opened(tmp_path):
    """A database that cannot be made holds the program up once, for a while, and is named in one warning."""
    done = run("", tmp_path, teardown="", MLFLOW_TRACKING_URI="sqlite:////proc/mlflow.db")
    assert (done.returncode, done.stdout) == (0, "['42', '42', '42']\n")
    warnings = [line for line in done.stderr.splitlines() if "traces are not stored" in line]
    assert len([line for line in warnings if line.startswith("A span was lost")]) == 1
