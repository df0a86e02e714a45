"""Programs that are killed, many on one spool, and disks that take no more: no ended trace is uncounted."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import dspy
import mlflow
import pytest
from ended import new_destination, stored_ids
from faulty_proxy import FaultyProxy
from lives import answers, counts, ended, expected_answers, live
from offline_lm import OfflineLM
from programs import Program
from spooled_traces import status_of, waiting_ids

from dspy_mlflow_callbacks import MlflowCallback
from dspy_mlflow_callbacks.export.exporter import EXPORTER
from dspy_mlflow_callbacks.export.spool.settings import SpoolSettings
from dspy_mlflow_callbacks.export.spool_flush import flush
from dspy_mlflow_callbacks.export.waiting import Destination

pytestmark = pytest.mark.timeout(280)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "spool"


@pytest.fixture
def database(tmp_path):
    """Return a destination in a database of the test's own."""
    return new_destination(f"sqlite:///{tmp_path}/mlflow.db", "lives")


def test_a_program_that_is_killed_50_times_loses_no_ended_trace(database, folder):
    """With `durable`, each trace whose call had ended when the program was killed is stored exactly once."""
    lives = live(
        database,
        folder,
        options={"durable": True},
        rounds=50,
        threads=4,
        calls=10_000,
        kill_within_s=0.6,
        opens_store=True,
    )
    settings = SpoolSettings(folder=str(folder))
    flush(settings)
    stored, known = stored_ids(database), ended(lives)
    assert len(lives) == 50
    assert len(known) > 50
    assert set(known) - set(stored) == set()
    assert len(stored) == len(set(stored))
    # Killed between a trace's end and the word of it: at most one for each thread of each life.
    assert len(set(stored) - set(known)) <= 50 * 4
    assert status_of(folder).traces == status_of(folder).dropped == 0


def test_24_programs_share_a_spool(server, experiment_id, folder):
    """Traces of 24 programs whose server is away are all in the spool, and 24 others deliver each of them once."""
    proxy = FaultyProxy(server.port)
    proxy.mode = "reset"
    there = Destination(tracking_uri=proxy.uri, experiment_id=experiment_id)
    first = live(there, folder, at_once=24, threads=1, calls=15, exit_s=60.0)
    assert counts(first) == {"stored": 0, "spooled": 24 * 15, "lost": 0, "dead_lettered": 0}
    assert sorted(waiting_ids(folder)) == sorted(ended(first))
    proxy.mode = "pass"
    second = live(there, folder, at_once=24, threads=1, calls=1, exit_s=60.0)
    flush(SpoolSettings(folder=str(folder)))
    stored = stored_ids(Destination(tracking_uri=server.uri, experiment_id=experiment_id))
    assert stored == sorted([*ended(first), *ended(second)])
    assert status_of(folder).traces == 0
    assert answers(first) == expected_answers(1, 15, 24)
    proxy.close()


def test_a_full_disk(server, experiment_id, folder):
    """Where the spool's file may not grow, what is in it is kept, the rest is lost and counted, and calls go on."""
    proxy = FaultyProxy(server.port)
    proxy.mode = "reset"
    there = Destination(tracking_uri=proxy.uri, experiment_id=experiment_id)
    lives = live(there, folder, calls=60, exit_s=3.0, most_file_bytes=200_000)
    counted = counts(lives)
    assert counted["spooled"] + counted["lost"] == 120
    assert counted["lost"] > 0
    assert len(waiting_ids(folder)) == counted["spooled"]
    assert answers(lives) == expected_answers(2, 60)
    proxy.close()


@pytest.mark.parametrize("durable", [False, True])
def test_a_spool_that_cannot_be_written(database, tmp_path, durable):
    """Where a file stands in the folder's place, traces are stored from memory, as without a spool."""
    (tmp_path / "file").write_text("")
    lives = live(database, tmp_path / "file", options={"durable": durable}, exit_s=60.0)
    assert counts(lives) == {"stored": 40, "spooled": 0, "lost": 0, "dead_lettered": 0}
    assert stored_ids(database) == sorted(ended(lives))
    assert answers(lives) == expected_answers(2, 20)


@pytest.mark.warns
def test_a_database_that_is_locked(database, folder, monkeypatch):
    """While another program locks the database traces wait, at the end in the spool, and are stored when it lets go."""
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "true")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", database.experiment_id)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(database.tracking_uri)
    callback = MlflowCallback(engine="recorded", spool_dir=folder)
    with dspy.context(lm=OfflineLM(), callbacks=[callback]):
        Program()(question="first")
        assert EXPORTER.flush(60)
        with closing(sqlite3.connect(database.tracking_uri.removeprefix("sqlite:///"))) as locking:
            locking.execute("BEGIN EXCLUSIVE")
            answers = [Program()(question=str(number)).answer for number in range(20)]
            EXPORTER.close(3.0)
            EXPORTER._begin()  # this process goes on
            locking.rollback()
    stats = callback.stats()
    assert (stats.stored, stats.spooled, stats.lost) == (1, 20, 0)
    assert flush(SpoolSettings(folder=str(folder))) == 20
    assert len(set(stored_ids(database))) == len(stored_ids(database)) == 21
    mlflow.set_tracking_uri(before)
    with dspy.context(lm=OfflineLM()):
        assert answers == [Program()(question=str(number)).answer for number in range(20)]
