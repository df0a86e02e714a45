"""Whatever happens to PostgreSQL, behind a tracking server or without one, each trace is stored once."""

from __future__ import annotations

import mlflow
import pytest
from ended import stored_ids, wait_until
from lives import counts, ended, live
from places import CALLS, Place
from tracking_server import TrackingServer

from dspy_mlflow_callbacks.export.exporter import EXPORTER
from dspy_mlflow_callbacks.export.spool.settings import SpoolSettings
from dspy_mlflow_callbacks.export.spool_flush import flush
from dspy_mlflow_callbacks.export.waiting import Destination

pytestmark = [pytest.mark.warns, pytest.mark.usefixtures("as_it_was"), pytest.mark.timeout(250)]


class Database:
    """A store without a server before it."""

    def __init__(self, uri):
        self.uri = uri


@pytest.fixture(scope="module")
def stores(postgres, tmp_path_factory):
    """Return a tracking server on PostgreSQL, and a database that programs write to themselves."""
    server = TrackingServer(tmp_path_factory.mktemp("server"), postgres.create_store("behind_a_server")).start()
    yield {"server": server, "database": Database(postgres.create_store("alone"))}
    server.stop()


@pytest.fixture(params=["server", "database"])
def place(stores, tmp_path, monkeypatch, request):
    """Return a place whose traces end in PostgreSQL."""
    store = stores[request.param]
    experiment_id = mlflow.MlflowClient(store.uri).create_experiment(request.node.name)
    return Place(monkeypatch, tmp_path / "spool", uri=store.uri, server=store, experiment_id=experiment_id)


def at_half(then):
    """Return what does something when half of the calls have been made."""
    return lambda number: then() if number == CALLS // 2 else None


def test_a_database_that_crashes_and_comes_back(place, postgres):
    """A database that is killed while traces arrive, and started again, has each trace once."""
    answers, callback = place.run(at_half(postgres.stop))
    wait_until(lambda: EXPORTER.queued == 0)
    postgres.start()
    place.check(answers, callback)


def test_a_database_that_restarts_in_mid_run(place, postgres):
    """Connections that are cut in mid-run cost no trace."""

    def restart():
        postgres.stop()
        postgres.start()

    answers, callback = place.run(at_half(restart))
    place.check(answers, callback)


def test_a_database_that_does_not_answer(place, postgres):
    """While the database is frozen calls go on; once it goes on each trace is stored once."""
    answers, callback = place.run(at_half(postgres.freeze))
    postgres.thaw()
    place.check(answers, callback)


@pytest.mark.parametrize("place", ["server"], indirect=True)
def test_24_processes_at_once(place, tmp_path, monkeypatch):
    """500 traces of each of 24 processes, to one tracking server at once, are all stored, each once."""
    there = Destination(tracking_uri=place.uri, experiment_id=place.stored_at.experiment_id)
    lives = live(there, tmp_path / "spool", at_once=24, threads=1, calls=500, exit_s=120.0, request_s=120)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")
    flush(SpoolSettings(folder=str(tmp_path / "spool")))  # what a slow machine had not delivered by then
    assert (len(ended(lives)), counts(lives)["lost"]) == (24 * 500, 0)
    assert stored_ids(there) == sorted(ended(lives))
