"""Faults: a real tracking server behind a proxy, full disks, killed programs. `make test-faults` runs this folder."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest
from named_folders import is_named
from tracking_server import TrackingServer


def pytest_ignore_collect(collection_path, config):
    """Leave this folder out where it is not named: each of its tests takes seconds."""
    return None if is_named(Path(__file__).parent, config) else True


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Return a real tracking server with an SQLite database, which takes 15 s to start."""
    server = TrackingServer(tmp_path_factory.mktemp("server")).start()
    yield server
    server.stop()


@pytest.fixture
def experiment_id(server, request):
    """Return the id of an experiment of the test's own, on the server."""
    return mlflow.MlflowClient(server.uri).create_experiment(request.node.name)
