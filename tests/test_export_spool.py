"""The spool: traces go in, wait, are claimed by one process at a time, and leave; it is bounded, private and shared."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import attrs
import pytest
from ended import wait_until
from spooled_traces import WHERE, spool_at, spooled_row, status_of, waiting_ids

from dspy_mlflow_callbacks.export.spool import database, owners
from dspy_mlflow_callbacks.export.spool.database import Database
from dspy_mlflow_callbacks.export.spool.errors import SpoolError
from dspy_mlflow_callbacks.export.spool.settings import SpoolSettings, default_folder
from dspy_mlflow_callbacks.export.spool.spool import Spool


@pytest.fixture
def spool(tmp_path):
    spool = spool_at(tmp_path / "spool")
    yield spool
    spool.database.close()


@pytest.fixture
def other(tmp_path, spool):
    """Return the same spool as another process has it."""
    other = spool_at(tmp_path / "spool", clock=spool._clock)
    yield other
    other.database.close()


def claimed(spool, most=100):
    return [row.trace_id for row in spool.claim(WHERE, most, 1_000_000)]


def test_what_is_claimed_is_what_was_added(spool):
    """A trace comes out of the spool byte for byte as it went in."""
    row = spooled_row(request=bytes(range(256)), extra='{"info": "ü"}', note=2)
    id_ = spool.add(row, is_mine=False)
    assert spool.claim(WHERE, 10, 1000) == [attrs.evolve(row, id=id_)]


def test_files_are_private(spool):
    """The folder is its owner's alone, and so are the database, its log and its lock."""
    spool.add(spooled_row(), is_mine=False)
    folder = spool.file.parent
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert modes == dict.fromkeys(["opening.lock", "spool.db", "spool.db-wal", "spool.db-shm", "spool.lock"], 0o600)


def test_each_trace_is_claimed_by_one(spool, other):
    """Two processes share what waits: none is claimed twice, the longest waiting ones first."""
    for number in range(6):
        spool.add(spooled_row(f"tr-{number}"), is_mine=False)
    assert (claimed(spool, 3), claimed(other), claimed(spool)) == (
        ["tr-0", "tr-1", "tr-2"],
        ["tr-3", "tr-4", "tr-5"],
        [],
    )


def test_a_claim_has_bounds(spool):
    """A claim has so many bytes, but one trace at least."""
    for number in range(4):
        spool.add(spooled_row(f"tr-{number}", 1000), is_mine=False)
    assert [len(spool.claim(WHERE, 10, most)) for most in (1, 2500)] == [1, 2]


def test_what_is_released_can_be_claimed_again(spool, other):
    """A trace that could not be delivered goes back; one over which the store failed goes behind the others."""
    ids = [spool.add(spooled_row(f"tr-{number}"), is_mine=False) for number in range(3)]
    claimed(spool)
    spool.release(ids[:1], failed=True)
    spool.release(ids[1:])
    assert [(row.trace_id, row.note) for row in other.claim(WHERE, 9, 9999)] == [("tr-1", 0), ("tr-2", 0), ("tr-0", 1)]


def test_only_its_owner_releases_a_trace(spool, other):
    """A process that was too slow does not release what another one has claimed since."""
    id_ = spool.add(spooled_row(), is_mine=False)
    claimed(other)
    spool.release([id_])
    assert claimed(spool) == []


def test_what_is_deleted_is_gone(spool):
    """A trace that is stored leaves the spool, and its bytes count no more."""
    spool.delete([spool.add(spooled_row(), is_mine=True)])
    assert (claimed(spool), waiting_ids(spool.file.parent)) == ([], [])
    assert spool.destinations() == []


@pytest.mark.parametrize(
    ("seconds", "is_free"),
    [(0.0, False), (owners.LEASE_SECONDS - 1, False), (owners.LEASE_SECONDS + 1, True), (-3600.0, True)],
    ids=["now", "just before", "after", "a clock that was set back"],
)
def test_a_lease_lapses(spool, other, seconds, is_free):
    """What a living process holds is its own until its lease is over, or comes from the future."""
    spool.add(spooled_row(), is_mine=True)
    spool._clock.now += seconds
    assert other.destinations() == ([WHERE] if is_free else [])


def test_a_lease_is_renewed(spool, other):
    """A process that lives holds on to what it holds."""
    spool.add(spooled_row(), is_mine=True)
    spool._clock.now += owners.LEASE_SECONDS
    spool.renew()
    assert (other.destinations(), claimed(other)) == ([], [])


def test_what_a_dead_process_held_is_free_at_once(spool, other):
    """The lease of a process of this host that is gone does not count."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    spool.owner = f"x:{gone.pid}:{owners.platform.node()}"
    spool.add(spooled_row(), is_mine=True)
    assert other.destinations() == [WHERE]
    assert claimed(other) == ["tr-1"]


@pytest.mark.parametrize("owner", ["x:1:elsewhere", "x", "x:y:z", f"x:{10**30}:{owners.platform.node()}", "x:1:"])
def test_nobody_else_is_known_to_be_dead(owner):
    """Of a process elsewhere, and of an owner that is none, nothing is known."""
    assert not owners.is_dead(owner)


def test_a_process_of_somebody_else_is_alive(monkeypatch):
    """A process that may not be asked is there."""

    def kill(pid, signal):
        raise PermissionError

    monkeypatch.setattr(os, "kill", kill)
    assert not owners.is_dead(owners.new_owner())
    monkeypatch.undo()
    assert not owners.is_dead(owners.new_owner())


def test_the_oldest_make_room(tmp_path):
    """A spool holds so many bytes: the oldest traces leave, and are counted."""
    spool = spool_at(tmp_path, max_bytes=1000)
    for number in range(20):
        spool.add(spooled_row(f"tr-{number}", 98), is_mine=False)
    assert waiting_ids(tmp_path) == [f"tr-{number}" for number in range(10, 20)]
    assert status_of(tmp_path).dropped == 10


def test_dead_letters_make_room_first_and_what_is_held_last(tmp_path):
    """What was refused leaves before what waits, and that before what a process holds."""
    spool = spool_at(tmp_path, max_bytes=300)
    spool.add(spooled_row("held", 98), is_mine=True)
    spool.add(spooled_row("waits", 98), is_mine=False)
    spool.reject([(spooled_row("dead", 98), "no")])
    for name in ("first", "second", "third"):
        spool.add(spooled_row(name, 98), is_mine=True)
    assert (waiting_ids(tmp_path), status_of(tmp_path).dead_traces) == (["first", "second", "third"], 0)


def test_a_trace_larger_than_the_spool_does_not_stay(tmp_path):
    """A trace for which there is no room at all is dropped and counted."""
    spool_at(tmp_path, max_bytes=10).add(spooled_row(), is_mine=False)
    assert (waiting_ids(tmp_path), status_of(tmp_path).dropped) == ([], 1)


def test_a_wrong_count_of_bytes_ends_no_program(tmp_path):
    """Where the count of bytes is damaged, all leaves, and no more."""
    spool = spool_at(tmp_path, max_bytes=1000)
    spool.database.run(lambda connection: connection.execute("UPDATE counts SET value = 9999999"))
    spool.add(spooled_row(), is_mine=False)
    assert waiting_ids(tmp_path) == []


def test_what_waits_for_too_long_is_dropped(spool):
    """Traces older than the limit leave, dead letters too, and are counted."""
    spool.add(spooled_row("old"), is_mine=False)
    spool.reject([(spooled_row("refused"), "no")])
    spool.add(spooled_row("new", ended=1500.0), is_mine=False)
    spool._clock.now += 1001
    spool.destinations()
    found = status_of(spool.file.parent)
    assert (waiting_ids(spool.file.parent), found.expired, found.dead_traces) == (["new"], 2, 0)


def test_refused_traces_are_kept_with_the_reason(spool):
    """A dead letter is not delivered any more, until it is asked for."""
    id_ = spool.add(spooled_row(), is_mine=True)
    spool.reject([(spooled_row(id=id_), "bad trace"), (spooled_row("tr-2"), "bad too")])
    assert claimed(spool) == []
    assert sorted(group.reason for group in status_of(spool.file.parent).dead_letters) == ["bad too", "bad trace"]
    assert (spool.revive(), claimed(spool)) == (2, ["tr-1", "tr-2"])


def test_many_threads_write_together(spool):
    """Threads that write at once share transactions, and each gets the id of its own trace."""
    ids, barrier = {}, threading.Barrier(16)

    def write(name):
        barrier.wait(60)
        for number in range(20):
            ids[f"{name}-{number}"] = spool.add(spooled_row(f"{name}-{number}"), is_mine=True)

    threads = [threading.Thread(target=write, args=(name,)) for name in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    rows = spool.database.run(lambda connection: dict(connection.execute("SELECT trace_id, id FROM traces")))
    assert rows == ids


def test_who_waits_for_the_others_writes_what_they_left(spool, monkeypatch):
    """A thread whose trace another one could not write writes it itself."""
    real, written, failed = spool.add_all, [], []

    def fails_once(rows, timeout_s):
        written.append(len(rows))
        if len(written) == 1:
            raise SpoolError("once")
        return real(rows, timeout_s)

    def add(name):
        try:
            spool.add(spooled_row(name), is_mine=False)
        except SpoolError:
            failed.append(name)

    monkeypatch.setattr(spool, "add_all", fails_once)
    threads = [threading.Thread(target=add, args=(name,)) for name in ("one", "other")]
    with spool._writing:
        for thread in threads:
            thread.start()
        wait_until(lambda: len(spool._tickets) == 2)
    for thread in threads:
        thread.join(60)
    assert (written, len(failed)) == ([2, 1], 1)
    assert {*waiting_ids(spool.file.parent), *failed} == {"one", "other"}


def test_a_call_does_not_wait_for_ever(spool):
    """Where other threads or processes hold the spool, writing fails in time, and nothing is left to be written."""
    with spool.database._lock, spool._writing:
        errors = []

        def write():
            for work in (
                lambda: spool.add(spooled_row(), is_mine=True, timeout_s=0.01),
                lambda: spool.database.run(lambda connection: None, 0.01),
            ):
                with pytest.raises(SpoolError) as raised:
                    work()
                errors.append(str(raised.value))

        thread = threading.Thread(target=write)
        thread.start()
        thread.join(60)
    assert errors == ["it is busy for more than 0.01 s"] * 2
    assert not spool._tickets


def test_another_process_that_holds_the_lock_is_waited_for_in_time(spool, other):
    """A database that another process has locked is an error in time."""
    spool.add(spooled_row(), is_mine=False)

    def meanwhile(connection):
        with pytest.raises(SpoolError, match="locked"):
            other.database.run(lambda connection: None, 0.01)

    spool.database.run(meanwhile)
    assert other.database.run(lambda connection: 1) == 1


def test_a_signal_may_write_in_the_middle(spool):
    """What a signal's handler writes while its thread writes is in the same transaction."""

    def work(connection):
        spool.add(spooled_row("inner"), is_mine=False)
        spool.database.run(lambda inner: None)

    spool.database.run(work)
    assert waiting_ids(spool.file.parent) == ["inner"]


def test_a_transaction_that_fails_leaves_nothing(spool):
    """An error in the middle undoes what was done."""

    def work(connection):
        connection.execute("UPDATE counts SET value = 7")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        spool.database.run(work)
    assert status_of(spool.file.parent).dropped == 0


def test_a_spool_whose_folder_is_removed_is_begun_anew(spool):
    """Somebody who removes the folder while a program runs loses what was in it, and no more."""
    spool.add(spooled_row("before"), is_mine=False)
    for file in spool.file.parent.iterdir():
        file.unlink()
    spool.add(spooled_row("after"), is_mine=False)
    assert waiting_ids(spool.file.parent) == ["after"]


def test_a_file_that_vanishes_again_and_again_is_an_error(spool, monkeypatch):
    """Where the database does not stay, the spool cannot be used."""
    numbers = iter(range(1000))
    monkeypatch.setattr(database, "_identity", lambda file: next(numbers))
    with pytest.raises(SpoolError, match="vanishes"):
        spool.add(spooled_row(), is_mine=False)


def test_a_file_in_the_folder_s_place_is_an_error(tmp_path):
    """A spool that cannot be made says why."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match="Not a directory"):
        Spool(Database(tmp_path / "file" / "spool"), 1000, 1.0).add(spooled_row(), is_mine=False)


def test_fsync_waits_for_the_disk(spool):
    """With `fsync` SQLite is told to wait for the disk at each commit (FULL), without it is not (NORMAL)."""
    ask = lambda connection: connection.execute("PRAGMA synchronous").fetchone()[0]
    assert spool.database.run(ask) == 1
    spool.database.fsync = True
    assert spool.database.run(ask) == 2


def test_a_fork_has_a_connection_of_its_own(spool):
    """A fork leaves its parent's connection alone, and writes through one of its own."""
    spool.add(spooled_row("parent"), is_mine=False)
    spool.database.before_fork()
    child = os.fork()
    if not child:
        spool.database.after_fork_in_child()
        spool.add(spooled_row("child"), is_mine=False)
        os._exit(0)
    spool.database.after_fork_in_parent()
    assert os.waitpid(child, 0)[1] == 0
    spool.add(spooled_row("parent again"), is_mine=False)
    assert waiting_ids(spool.file.parent) == ["parent", "child", "parent again"]


def test_a_fork_writes_to_a_spool_that_its_parent_had_not_opened(spool):
    """A fork opens a spool that its parent has only named."""
    spool.database.before_fork()
    spool.database.after_fork_in_child()
    spool.add(spooled_row("child"), is_mine=False)
    assert waiting_ids(spool.file.parent) == ["child"]


def test_a_fork_does_not_wait_for_ever(spool, monkeypatch):
    """A fork waits for a transaction, but not for one that takes very long."""
    monkeypatch.setattr(database, "_FORK_SECONDS", 0.01)
    with spool.database._lock:
        thread = threading.Thread(target=lambda: (spool.database.before_fork(), spool.database.after_fork_in_parent()))
        thread.start()
        thread.join(60)
    assert spool.add(spooled_row(), is_mine=False) == 1


@pytest.mark.parametrize(
    ("state", "expected"),
    [("/var/state", "/var/state/dspy_mlflow_callbacks/spool"), ("relative", None), ("", None)],
)
def test_the_folder_by_default(monkeypatch, state, expected):
    """The folder is the one of the XDG Base Directory Specification; a relative path in its variable is ignored."""
    monkeypatch.setenv("XDG_STATE_HOME", state)
    at_home = str(Path.home() / ".local" / "state" / "dspy_mlflow_callbacks" / "spool")
    assert default_folder() == (expected or at_home)


def test_without_a_home_there_is_no_spool(monkeypatch):
    """A process without a home has no folder."""

    def nobody():
        raise RuntimeError

    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(Path, "home", nobody)
    assert default_folder() == ""


def test_an_empty_spool_shrinks(tmp_path):
    """A spool that has been emptied gives its pages back."""
    spool = spool_at(tmp_path)
    ids = spool.add_all([(spooled_row(size=10_000), None) for _ in range(200)])
    checkpoint = lambda connection: connection.execute("PRAGMA page_count").fetchone()[0]
    full = spool.database.run(checkpoint)
    spool.delete(ids)
    spool.destinations()
    assert spool.database.run(checkpoint) < full / 10


def test_a_spool_that_is_closed_does_not_shrink(spool):
    """A spool that is not open is not opened to give pages back."""
    spool.database.shrink()
    assert not spool.exists()


def test_settings_are_values():
    """Two settings with the same folder and limits are equal."""
    assert SpoolSettings(folder="a") == SpoolSettings(folder="a") != SpoolSettings(folder="a", durable=True)


def test_a_lock_of_another_process_is_waited_for_in_time(spool, other):
    """Where another process sets the spool aside for too long, it cannot be used now."""
    spool.add(spooled_row(), is_mine=False)
    with other.database._guard.alone(1.0), pytest.raises(SpoolError, match="another process has it for more than"):
        spool.database.run(lambda connection: None, 0.01)
