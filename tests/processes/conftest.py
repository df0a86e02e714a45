"""Fresh interpreters and servers; the tests here run only where this folder is named: `make test-processes`."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest
from named_folders import is_named
from programs_of_processes import Programs


def pytest_ignore_collect(collection_path, config):
    """Leave this folder out where it is not named: each of its tests takes seconds."""
    return None if is_named(Path(__file__).parent, config) else True


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Return where this process and those that it starts store traces: a database in the test's own folder."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    # Not `set_experiment`, which sets the variable too, and for good.
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", mlflow.create_experiment("processes"))
    yield uri
    mlflow.set_tracking_uri(before)


@pytest.fixture
def processes(store, tmp_path):
    """Return what runs programs as processes of their own, and finds what they stored."""
    return Programs(tmp_path, mlflow.get_experiment_by_name("processes").experiment_id)
