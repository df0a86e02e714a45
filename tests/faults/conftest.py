"""Faults: a real tracking server behind a proxy, full disks, killed programs. `make test-faults` runs this folder."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest
from named_folders import is_named
from postgres_server import PostgresServer
from tracking_server import TrackingServer

from dspy_mlflow_callbacks.export import redelivery
from dspy_mlflow_callbacks.export.exporter import EXPORTER


def pytest_ignore_collect(collection_path, config):
    """Leave this folder out where it is not named: each of its tests takes seconds."""
    return None if is_named(Path(__file__).parent, config) else True


@pytest.fixture(scope="session")
def postgres():
    """Return a PostgreSQL server, which takes seconds to start."""
    postgres = PostgresServer().start()
    yield postgres
    postgres.stop()
    postgres.remove()


@pytest.fixture(scope="module")
def kind_of_database(request):
    """Return the kind of database that a tracking server has: SQLite, unless the tests are parametrized with others."""
    return getattr(request, "param", "sqlite")


@pytest.fixture(scope="module")
def new_server(kind_of_database, tmp_path_factory, request):
    """Return a function that makes a tracking server that does not run yet, with a database of its own."""

    def new_server():
        folder = tmp_path_factory.mktemp("server")
        if kind_of_database == "sqlite":
            return TrackingServer(folder)
        return TrackingServer(folder, request.getfixturevalue("postgres").create_store(folder.name))

    return new_server


@pytest.fixture(scope="module")
def server(new_server):
    """Return a real tracking server, which takes 15 s to start."""
    server = new_server().start()
    yield server
    server.stop()


@pytest.fixture
def experiment_id(server, request):
    """Return the id of an experiment of the test's own, on the server."""
    return mlflow.MlflowClient(server.uri).create_experiment(request.node.name)


@pytest.fixture
def as_it_was(monkeypatch):
    """Ask a store that failed soon again, and let MLflow and the exporter be afterwards what they were before."""
    monkeypatch.setattr(redelivery, "LOOK_SECONDS", 0.5)
    monkeypatch.setattr("dspy_mlflow_callbacks.export.lanes._LONGEST_PAUSE_SECONDS", 1.0)
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    before = mlflow.get_tracking_uri()
    yield
    EXPORTER.flush(60)
    mlflow.set_tracking_uri(before)
