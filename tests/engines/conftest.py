"""Clusters on this machine; the tests here run only where this folder is named: `make test-engines`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [folder for folder in (str(HERE), str(HERE.parent)) if folder not in sys.path]
# Workers find the tests' programs by it.
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
os.environ["PYTHONWARNINGS"] = "ignore"
os.environ["PYSPARK_PYTHON"] = sys.executable
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import pytest
from drivers import driving
from named_folders import is_named
from postgres_server import PostgresServer
from tracking_server import TrackingServer


def pytest_ignore_collect(collection_path, config):
    """Leave this folder out where it is not named: it needs the engines, and minutes."""
    return None if is_named(HERE, config) else True


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """Run a tracking server on PostgreSQL for all tests of the session."""
    postgres = PostgresServer().start()
    server = TrackingServer(tmp_path_factory.mktemp("server"), postgres.create_store("mlflow")).start()
    os.environ["MLFLOW_TRACKING_URI"] = server.uri
    yield server
    server.stop()
    postgres.stop()
    postgres.remove()


@pytest.fixture(scope="session")
def sqlite_server(tmp_path_factory):
    """Run one on SQLite for those tests that name it."""
    server = TrackingServer(tmp_path_factory.mktemp("sqlite_server")).start()
    yield server
    server.stop()


@pytest.fixture
def driver(server, request, tmp_path):
    """Return what runs programs as the driver of an engine, and looks for their traces."""
    with driving(request.getfixturevalue(getattr(request, "param", "server")), tmp_path) as driver:
        yield driver
