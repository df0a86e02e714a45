"""A damaged spool: it is set aside, what can be read of it is saved, and the program goes on with a new one."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing

import pytest
from ended import EndedTrace, FakeStore, wait_until
from spooled_traces import WHERE, AwayStore, limits_of, spool_at, spooled_row, status_of, waiting_ids

from dspy_mlflow_callbacks.export.exporter import Exporter
from dspy_mlflow_callbacks.export.spool import salvage
from dspy_mlflow_callbacks.export.spool.database import Database, connect
from dspy_mlflow_callbacks.export.spool.errors import DamagedError, SpoolError
from dspy_mlflow_callbacks.export.spool.salvage import set_aside
from dspy_mlflow_callbacks.export.spool.settings import FILE
from dspy_mlflow_callbacks.export.spool.spool import Spool

TRACES = 60
PAGE = 4096


def full_spool(folder):
    """Make a spool with traces and dead letters in it, all in its main file, and return their names."""
    spool = spool_at(folder)
    names = [f"tr-{number}" for number in range(TRACES)]
    spool.add_all([(spooled_row(name, 3000 + number), None) for number, name in enumerate(names)])
    spool.reject([(spooled_row("dead", 3000), "bad")])
    spool.database.close()
    return names


def damage(file, offset, data):
    with file.open("r+b") as opened:
        opened.seek(offset)
        opened.write(data)


def test_a_file_that_is_no_database_is_set_aside(tmp_path):
    """A file of other bytes in the spool's place keeps them under another name."""
    (tmp_path / FILE).write_bytes(b"no database" * 1000)
    told = []
    spool = Spool(Database(tmp_path, lambda *said: told.append(said)), 10_000_000, 1000.0)
    spool.add(spooled_row(), is_mine=False)
    ((aside, saved),) = told
    assert (aside.read_bytes()[:11], saved, waiting_ids(tmp_path)) == (b"no database", 0, ["tr-1"])
    assert status_of(tmp_path).damaged == 1


def test_what_can_be_read_is_saved(tmp_path):
    """Of a spool with some damaged pages, the traces on the others are saved, dead letters too."""
    names = full_spool(tmp_path)
    size = (tmp_path / FILE).stat().st_size
    damage(tmp_path / FILE, size // 2 // 4096 * 4096, b"\xff" * 4096 * 3)
    spool = spool_at(tmp_path)
    spool.add(spooled_row("new"), is_mine=False)
    rows = []
    while claimed := spool.claim(WHERE, 100, 1_000_000):
        rows += claimed
    found = {row.trace_id for row in rows}
    assert found < {*names, "new"}
    assert len(found) >= TRACES - 10
    assert all(row.request.strip(b"x") == b"" for row in rows)


def test_a_row_whose_bytes_have_changed_is_not_delivered(tmp_path):
    """A checksum finds a damaged trace where SQLite does not: the others are saved, and it is not among them."""
    names = full_spool(tmp_path)
    with closing(sqlite3.connect(tmp_path / FILE)) as database:
        database.execute("UPDATE traces SET request = ? WHERE trace_id = 'tr-7'", (b"y" * 3007,))
        database.commit()
    spool = spool_at(tmp_path)
    found = [row.trace_id for row in spool.claim(WHERE, 100, 10_000_000)]
    assert found == [name for name in names if name != "tr-7"]
    assert status_of(tmp_path).dead_traces == 1


@pytest.mark.parametrize("column", ["ended = 'x'", "extra = x'ff'", "trace_id = 'other'", "request = 'text'"])
def test_a_row_of_other_values_is_not_delivered(tmp_path, column):
    """A row in which something else stands than what was written is none."""
    full_spool(tmp_path)
    with closing(sqlite3.connect(tmp_path / FILE)) as database:
        database.execute(f"UPDATE traces SET {column} WHERE trace_id = 'tr-0'")  # noqa: S608  (of this test)
        database.commit()
    spool = spool_at(tmp_path)
    spool.claim(WHERE, 100, 10_000_000)
    assert "tr-0" not in waiting_ids(tmp_path)


def test_texts_that_are_none_are_found(tmp_path):
    """Bytes that are no UTF-8 where a text stood are found by the checksum."""
    full_spool(tmp_path)
    data = (tmp_path / FILE).read_bytes()
    damage(tmp_path / FILE, data.index(b"nowhere://store"), b"\xff\xfe")
    spool = spool_at(tmp_path)
    spool.destinations()
    assert len(spool.claim(WHERE, 100, 10_000_000)) >= TRACES - 1


def test_a_sound_spool_is_not_set_aside(tmp_path):
    """Who comes second, after another process has begun a new one, leaves it."""
    full_spool(tmp_path)
    assert set_aside(tmp_path / FILE, connect) is None


def test_who_comes_second_goes_on_with_the_new_one(tmp_path):
    """A process that has met damage which another one has mended meanwhile uses what is there, and says nothing."""
    names = full_spool(tmp_path)
    told, errors = [], [DamagedError("a damaged page")]
    database = Database(tmp_path, lambda *said: told.append(said))

    def work(connection):
        if errors:
            raise errors.pop()
        return connection.execute("SELECT count(*) FROM traces").fetchone()

    assert (database.run(work), told) == ((len(names),), [])
    assert list(tmp_path.glob(f"{FILE}.damaged-*")) == []
    database.close()


def page_of(file, name):
    """Return the number of the page that a trace of `full_spool` is on, which has a page of its own."""
    return file.read_bytes().index(f"{name}{WHERE}".encode()) // PAGE


def test_a_page_that_is_there_twice_is_saved_once(tmp_path):
    """Where the tree of pages leads to the same page again, a trace is not delivered twice."""
    names = full_spool(tmp_path)
    file = tmp_path / FILE
    one, other = (page_of(file, name) + 1 for name in ("tr-20", "tr-40"))  # SQLite counts from 1
    with closing(sqlite3.connect(file)) as database:
        (root,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'traces'").fetchone()
    start = (root - 1) * PAGE
    tree = file.read_bytes()[start : start + PAGE]
    damage(file, start + tree.index(other.to_bytes(4, "big")), one.to_bytes(4, "big"))
    assert set_aside(file, connect)[1] == len(names) - 1 + 1  # and the dead letter
    assert waiting_ids(tmp_path) == [name for name in names if name != "tr-40"]


def test_damage_without_an_end_is_not_searched_for_ever(tmp_path, monkeypatch):
    """After so many rows in a row that cannot be read what comes behind them is given up."""
    monkeypatch.setattr(salvage, "_MOST_FAILURES_IN_A_ROW", 3)
    names = full_spool(tmp_path)
    for name in names[20:25]:
        damage(tmp_path / FILE, page_of(tmp_path / FILE, name) * PAGE, b"\xff" * PAGE)
    assert set_aside(tmp_path / FILE, connect) is not None
    assert waiting_ids(tmp_path) == names[:20]


def test_the_neighbours_of_a_damaged_page_are_saved(tmp_path):
    """Damage costs the traces on its own pages, and not the one before them."""
    names, lost = full_spool(tmp_path), ["tr-0", "tr-20", "tr-21", "tr-40", "tr-59"]
    for name in lost:
        damage(tmp_path / FILE, page_of(tmp_path / FILE, name) * PAGE, b"\xff" * PAGE)
    assert set_aside(tmp_path / FILE, connect)[1] == len(names) - len(lost) + 1  # and the dead letter
    assert waiting_ids(tmp_path) == [name for name in names if name not in lost]


def test_only_the_last_damaged_spools_are_kept(tmp_path):
    """What is set aside does not fill the disk."""
    for _ in range(salvage.MOST_KEPT * 3 + 4):
        (tmp_path / FILE).write_bytes(b"no database" * 1000)
        assert set_aside(tmp_path / FILE, connect) is not None
    assert len(list(tmp_path.glob(f"{FILE}.damaged-*"))) <= salvage.MOST_KEPT * 3 + 3


def test_a_spool_that_cannot_be_begun_anew_is_an_error(tmp_path, monkeypatch):
    """Where the new file cannot be made either, the spool cannot be used."""
    (tmp_path / FILE).write_bytes(b"no database" * 1000)

    def fails(file, connect):
        raise OSError("read-only")

    monkeypatch.setattr("dspy_mlflow_callbacks.export.spool.database.set_aside", fails)
    with pytest.raises(SpoolError, match="read-only"):
        spool_at(tmp_path).add(spooled_row(), is_mine=False)


def test_what_cannot_even_be_opened_has_nothing_to_save(tmp_path):
    """A folder in the file's place is no spool."""
    assert list(salvage._readable(tmp_path, "traces")) == []


def test_another_process_goes_on_in_the_new_one(tmp_path):
    """A process that has the old file open writes to the new one, once another has set the old one aside."""
    first, second = spool_at(tmp_path), spool_at(tmp_path)
    first.add(spooled_row("before"), is_mine=False)
    second.add(spooled_row("before too"), is_mine=False)
    (tmp_path / FILE).rename(tmp_path / "elsewhere")
    first.add(spooled_row("after"), is_mine=False)
    second.add(spooled_row("after too"), is_mine=False)
    assert waiting_ids(tmp_path) == ["after", "after too"]


@pytest.mark.warns
def test_a_program_goes_on_when_its_spool_is_damaged(tmp_path, warned):
    """Its traces are delivered, one line says what happened, and no trace is uncounted."""
    store = AwayStore()
    exporter, limits = Exporter(store), limits_of(tmp_path)
    early = [EndedTrace() for _ in range(10)]
    for trace in early:
        exporter.put(trace, limits)
    assert {trace.outcome() for trace in early} == {"spooled"}
    exporter._spools.close()
    damage(tmp_path / FILE, 0, random.Random(7).randbytes(4096))
    late = [EndedTrace() for _ in range(5)]
    for trace in late:
        exporter.put(trace, limits)
    store.is_away.clear()
    wait_until(lambda: {trace.row.trace_id for trace in store.traces if hasattr(trace, "row")} >= {t.id for t in late})
    exporter.close(60)
    assert [message.partition(":")[0] for message in warned.messages[1:]] == [
        "The spool was damaged, and is begun anew"
    ]


def test_reading_costs_nothing_where_there_is_none(tmp_path):
    """A folder without a spool has nothing waiting."""
    assert (waiting_ids(tmp_path), status_of(tmp_path).traces) == ([], 0)


@pytest.mark.warns
def test_a_reader_leaves_out_what_is_damaged(tmp_path):
    """Who only reads is given the rows that are whole."""
    full_spool(tmp_path)
    with closing(sqlite3.connect(tmp_path / FILE)) as database:
        database.execute("UPDATE traces SET trace_id = 'other' WHERE trace_id = 'tr-7'")
        database.commit()
    assert len(waiting_ids(tmp_path)) == TRACES - 1


def test_a_reader_is_told_that_there_is_no_database(tmp_path):
    """A spool that cannot be read is an error that says why."""
    (tmp_path / FILE).write_bytes(b"no database" * 1000)
    with pytest.raises(SpoolError, match="not a database"):
        status_of(tmp_path)


def test_a_store_that_is_there_needs_no_spool(tmp_path):
    """As long as the store takes traces, no file is made."""
    store = FakeStore()
    exporter = Exporter(store)
    exporter.put(EndedTrace(), limits_of(tmp_path / "spool"))
    assert exporter.flush(60)
    exporter.close(60)
    assert (len(store.traces), (tmp_path / "spool").exists()) == (1, False)
