"""What becomes of a damaged spool: it is set aside under another name, and what can be read of it is saved."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from dspy_mlflow_callbacks.export.spool import tables
from dspy_mlflow_callbacks.export.spool.errors import DamagedError
from dspy_mlflow_callbacks.export.spool.tables import DEAD_LETTERS, TRACES

Connect = Callable[[Path], sqlite3.Connection]

MOST_KEPT = 3
"""How many damaged spools are kept for who wants to look at them."""

_MOST_FAILURES = 20_000
_MOST_FAILURES_IN_A_ROW = 5_000
_ENDINGS = ("", "-wal", "-shm")


def set_aside(file: Path, connect: Connect) -> tuple[Path, int] | None:
    """Give a damaged database another name, and save what can be read of it in a new one.

    Args:
        file: The database, which nobody else writes to now.
        connect: Opens a database.

    Returns:
        The other name and how many traces were saved; None if the database is sound, as after another process's care.
    """
    if _is_sound(file, connect):
        return None
    aside = _rename(file)
    with closing(connect(file)) as new:
        new.execute("BEGIN")
        saved = sum(_save(aside, table, new) for table in (TRACES, DEAD_LETTERS))
        tables.count(new, "damaged", 1)
        new.execute("COMMIT")
    return aside, saved


def _is_sound(file: Path, connect: Connect) -> bool:
    try:
        with closing(connect(file)) as connection:
            if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                return False
            for table in (TRACES, DEAD_LETTERS):
                for _ in tables.rows(connection, table):
                    pass
    except sqlite3.Error:
        return False
    return True


def _rename(file: Path) -> Path:
    older = sorted(file.parent.glob(f"{file.name}.damaged-*"))
    for each in older[: max(0, len(older) - MOST_KEPT * len(_ENDINGS))]:
        each.unlink(missing_ok=True)
    aside = file.with_name(f"{file.name}.damaged-{time.time_ns()}")
    for ending in _ENDINGS:
        if file.with_name(file.name + ending).exists():
            file.with_name(file.name + ending).replace(aside.with_name(aside.name + ending))
    return aside


def _save(aside: Path, table: str, new: sqlite3.Connection) -> int:
    saved = 0
    for values in _readable(aside, table):
        try:
            row = tables.check(values)
        except DamagedError:
            continue
        tables.insert(new, table, row)
        saved += 1
    return saved


def _readable(file: Path, table: str) -> Iterator[tuple[object, ...]]:
    """Yield the rows that SQLite can read, on whatever side of those that it cannot."""
    try:
        connection = sqlite3.connect(file, isolation_level=None)
    except sqlite3.Error:
        return
    with closing(connection):
        connection.text_factory = lambda data: data.decode("utf-8", errors="replace")
        try:
            connection.execute("SELECT name FROM sqlite_master").fetchall()
        except sqlite3.Error:  # not even its first page
            return
        yield from _rows_around_damage(connection, table)


def _rows_around_damage(connection: sqlite3.Connection, table: str) -> Iterator[tuple[object, ...]]:
    last, failures, in_a_row = 0, 0, 0
    seen: set[int] = set()
    while failures < _MOST_FAILURES and in_a_row < _MOST_FAILURES_IN_A_ROW:
        # SQLite's driver looks for the next row before it gives one: the last one before a damaged page is read alone.
        is_alone, is_end = in_a_row > 0, True
        where = f"id >= ? ORDER BY id{' LIMIT 1' if is_alone else ''}"  # `>` would look at the page that it leaves
        try:
            for row in tables.select(connection, table, where, (last + 1,)):
                last, in_a_row, is_end = row[0], 0, not is_alone
                if last not in seen:
                    seen.add(last)
                    yield row
        except (sqlite3.Error, MemoryError, OverflowError):  # one damaged page is not the end
            last, failures, in_a_row = last + is_alone, failures + 1, in_a_row + 1
        else:
            if is_end:
                return
