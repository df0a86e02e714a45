"""Whatever happens to the tracking server, the program's results are the same, and each trace is stored once."""

from __future__ import annotations

import time

import attrs
import mlflow
import pytest
from ended import wait_until
from faulty_proxy import FaultyProxy
from places import CALLS, Place, answers_of
from spooled_traces import status_of

from dspy_mlflow_callbacks.export.exporter import EXPORTER
from dspy_mlflow_callbacks.export.spool.settings import SpoolSettings
from dspy_mlflow_callbacks.export.spool_flush import flush

pytestmark = [
    pytest.mark.warns,
    pytest.mark.usefixtures("as_it_was"),
    pytest.mark.timeout(250),
    pytest.mark.parametrize("kind_of_database", ["sqlite", "postgresql"], indirect=True, scope="module"),
]


@pytest.fixture
def place(server, experiment_id, tmp_path, monkeypatch):
    """Return a place whose server is behind a faulty proxy."""
    proxy = FaultyProxy(server.port)
    yield Place(monkeypatch, tmp_path / "spool", uri=proxy.uri, server=server, experiment_id=experiment_id, proxy=proxy)
    proxy.close()


@pytest.fixture
def bare_place(new_server, tmp_path, monkeypatch):
    """Return a place with a server of its own, which does not run."""
    server = new_server()
    return Place(monkeypatch, tmp_path / "spool", uri=server.uri, server=server, experiment_id="0")


FAULTS = ["500", "503", "429", "reset", "reset after", "hang"]


@pytest.mark.parametrize("mode", FAULTS)
def test_a_server_that_fails_for_a_while(place, mode):
    """Errors, resets and a server that never answers cost no trace: all are stored once it is well."""
    place.proxy.mode = mode
    answers, callback = place.run()
    wait_until(lambda: EXPORTER.queued == 0)  # all are in the spool, but for what was stored although it was reset
    place.proxy.mode = "pass"
    place.check(answers, callback)


def test_a_slow_server(place, monkeypatch):
    """With 10 kB a second traces arrive late, and all of them."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")
    place.proxy.mode = "slow"
    answers, callback = place.run()
    wait_until(lambda: callback.stats().stored + callback.stats().spooled > 0)
    place.proxy.mode = "pass"
    place.check(answers, callback)


def test_wrong_credentials(place):
    """What is refused for want of credentials is lost and counted, kept as dead letters, and delivered on demand."""
    place.proxy.mode = "401"
    answers, callback = place.run()
    place.check(answers, callback, lost=CALLS)
    assert callback.stats().dead_lettered == status_of(place.folder).dead_traces == CALLS
    place.proxy.mode = "pass"
    assert flush(SpoolSettings(folder=str(place.folder)), dead_letters=True) == CALLS
    assert len(set(place.stored())) == len(place.stored()) == CALLS


def test_an_experiment_that_is_deleted_in_mid_run(place):
    """Traces of an experiment that is gone are stored or refused as the server says; each is counted."""
    client = mlflow.MlflowClient(place.server.uri)

    def during(number):
        if number == CALLS // 2:
            assert EXPORTER.flush(60)
            client.delete_experiment(place.stored_at.experiment_id)

    answers, callback = place.run(during)
    assert EXPORTER.flush(120)
    client.restore_experiment(place.stored_at.experiment_id)
    stats, stored = callback.stats(), place.stored()
    assert stats.stored + stats.spooled + stats.lost == CALLS
    assert len(set(stored)) == len(stored) == stats.stored >= CALLS // 2
    assert stats.dead_lettered == stats.lost
    assert answers == answers_of([])


def test_a_server_that_is_absent_at_first(bare_place):
    """A program that begins before its server is there has all its traces stored when it comes, in its experiment."""
    answers, callback = bare_place.run(experiment="late")
    wait_until(lambda: EXPORTER.queued == 0)
    bare_place.server.start()
    try:
        client = mlflow.MlflowClient(bare_place.uri)
        wait_until(lambda: client.get_experiment_by_name("late"))
        found = client.get_experiment_by_name("late").experiment_id
        bare_place.stored_at = attrs.evolve(bare_place.stored_at, experiment_id=found)
        bare_place.check(answers, callback)
    finally:
        bare_place.server.stop()


def test_a_server_that_is_killed_in_mid_batch(bare_place):
    """A server that is killed while it stores, and comes back, has each trace once."""
    bare_place.server.start()

    def during(number):
        if number == CALLS // 2:
            bare_place.server.stop()

    answers, callback = bare_place.run(during)
    bare_place.server.start()
    try:
        bare_place.check(answers, callback)
    finally:
        bare_place.server.stop()


@pytest.mark.parametrize("mode", ["503", "hang"])
def test_the_end_of_the_program_has_a_limit(place, mode):
    """A program whose server is away ends within its limit, its traces in the spool; the next one delivers them."""
    place.proxy.mode = mode
    _, callback = place.run()
    began = time.monotonic()
    EXPORTER.close(3.0)
    took = time.monotonic() - began
    EXPORTER._begin()  # this process goes on
    assert took < 60  # of 3 s, on a machine that does other things
    stats = callback.stats()
    assert (stats.stored + stats.spooled, stats.lost) == (CALLS, 0)
    place.proxy.mode = "pass"
    _, again = place.run()
    assert EXPORTER.flush(60)
    wait_until(lambda: status_of(place.folder).traces == 0)
    assert len(place.stored()) == len(set(place.stored())) == 2 * CALLS
    assert again.stats().lost == 0


def test_calls_do_not_wait_for_a_server_that_never_answers(place):
    """While the worker waits for an answer and the buffer is full, no call waits: traces go to the spool."""
    place.proxy.mode = "hang"
    _, callback = place.run(max_queue_traces=2, max_block_s=3600.0)
    assert callback.stats().lost == 0
    assert callback.stats().spooled >= CALLS - 3
    place.proxy.mode = "pass"
    wait_until(lambda: status_of(place.folder).traces == 0)
