"""The spool: traces go in, are claimed for a while by who delivers them, and leave when they are stored."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import attrs

from dspy_mlflow_callbacks.export.spool import tables
from dspy_mlflow_callbacks.export.spool.database import BUSY_SECONDS, Database
from dspy_mlflow_callbacks.export.spool.errors import SpoolError
from dspy_mlflow_callbacks.export.spool.owners import LEASE_SECONDS, is_dead, new_owner
from dspy_mlflow_callbacks.export.spool.tables import DEAD_LETTERS, TRACES, Row

_MOST_IN_A_TRANSACTION = 500
_AT_ONCE = 50


@attrs.define(eq=False)
class _Ticket:
    """A row on its way in: whoever gets to the database first writes all that wait (a group commit)."""

    row: Row
    owner: str | None
    id: int = 0
    is_done: bool = False


class Spool:
    """One spool of this process.

    Args:
        database: What it is kept in.
        max_bytes: The most that its traces hold; the oldest make room.
        max_age_s: After how many seconds a trace is dropped.
        clock: Tells the time in seconds since 1970.
    """

    def __init__(
        self, database: Database, max_bytes: int, max_age_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        self.database = database
        self.max_bytes = max_bytes
        self.max_age_s = max_age_s
        self.owner = new_owner()
        self.expected: set[str] = set()  # where traces go that this process has put there since it last looked
        self._clock = clock
        self._tickets: deque[_Ticket] = deque()
        self._writing = threading.RLock()

    @property
    def file(self) -> Path:
        """The database's file."""
        return self.database.file

    def exists(self) -> bool:
        """Return whether there is a spool already."""
        return self.database.exists()

    def add(self, row: Row, *, is_mine: bool, timeout_s: float = BUSY_SECONDS) -> int:
        """Write a trace, with those that other threads write now; return its id.

        Args:
            row: The trace.
            is_mine: Whether this process delivers it, as long as it lives.
            timeout_s: The most seconds to wait for others that use the spool.

        Raises:
            SpoolError: if it is not written.
        """
        ticket = _Ticket(row, self.owner if is_mine else None)
        self._tickets.append(ticket)
        if not self._writing.acquire(timeout=timeout_s):
            with suppress(ValueError):  # somebody writes it this very moment: then it is delivered twice, without harm
                self._tickets.remove(ticket)
            message = f"it is busy for more than {timeout_s:g} s"
            raise SpoolError(message)
        try:
            if not ticket.is_done:
                self._write_waiting(ticket, timeout_s)
        finally:
            self._writing.release()
        return ticket.id

    def _write_waiting(self, own: _Ticket, timeout_s: float) -> None:
        # Those of others first; each of them writes itself what this one could not.
        waiting = [self._tickets.popleft() for _ in range(min(len(self._tickets), _MOST_IN_A_TRANSACTION))]
        if own not in waiting:
            waiting.append(own)
        ids = self.add_all([(each.row, each.owner) for each in waiting], timeout_s)
        for ticket, id_ in zip(waiting, ids, strict=True):
            ticket.id, ticket.is_done = id_, True

    def add_all(self, rows: Sequence[tuple[Row, str | None]], timeout_s: float = BUSY_SECONDS) -> list[int]:
        """Write traces, each with its owner, in one transaction; return their ids."""
        now = self._clock()

        def work(connection: sqlite3.Connection) -> list[int]:
            ids = [tables.insert(connection, TRACES, row, owner, now if owner else 0.0) for row, owner in rows]
            self._make_room(connection)
            return ids

        return self.database.run(work, timeout_s)

    def delete(self, ids: Sequence[int]) -> None:
        """Let traces go: they are stored."""
        self.database.run(lambda connection: tables.delete(connection, TRACES, ids))

    def release(self, ids: Sequence[int], *, failed: bool = False) -> None:
        """Let any process deliver traces that this one held.

        Args:
            ids: Their rows.
            failed: Whether their store has failed over each of them alone.
        """
        text = "UPDATE traces SET owner = NULL, leased = 0, attempts = attempts + ? WHERE id = ? AND owner = ?"
        values = [(int(failed), each, self.owner) for each in ids]
        self.database.run(lambda connection: connection.executemany(text, values))

    def renew(self) -> None:
        """Hold on to what this process holds."""
        text, values = "UPDATE traces SET leased = ? WHERE owner = ?", (self._clock(), self.owner)
        self.database.run(lambda connection: connection.execute(text, values))

    def reject(self, rows: Sequence[tuple[Row, str]]) -> None:
        """Move traces to the dead letters, each with the reason; those without an id are written there."""

        def work(connection: sqlite3.Connection) -> None:
            tables.delete(connection, TRACES, [row.id for row, _ in rows if row.id])
            for row, reason in rows:
                tables.insert(connection, DEAD_LETTERS, attrs.evolve(row, note=reason))
            self._make_room(connection)

        self.database.run(work)

    def revive(self) -> int:
        """Let dead letters wait for their stores again; return how many there are."""

        def work(connection: sqlite3.Connection) -> int:
            dead = list(tables.rows(connection, DEAD_LETTERS))
            tables.delete(connection, DEAD_LETTERS, [row.id for row in dead])
            for row in dead:
                tables.insert(connection, TRACES, attrs.evolve(row, note=0))
            return len(dead)

        return self.database.run(work)

    def destinations(self) -> list[str]:
        """Return where traces go that nobody holds, once the dead hold none and the old have gone."""
        now = self._clock()

        def work(connection: sqlite3.Connection) -> list[str]:
            self._expire(connection, now)
            for owner, leased in _leases(connection):
                # A lease from the future is of a clock that was set back.
                if owner != self.owner and (is_dead(owner) or not 0 <= now - leased < LEASE_SECONDS):
                    connection.execute("UPDATE traces SET owner = NULL, leased = 0 WHERE owner = ?", (owner,))
            found = connection.execute("SELECT DISTINCT destination FROM traces WHERE owner IS NULL")
            return [destination for (destination,) in found]

        waiting = self.database.run(work)
        if not waiting:
            self.database.shrink()
        return waiting

    def claim(self, destination: str, most: int, most_bytes: int) -> list[Row]:
        """Return the traces that have waited longest for a destination; they are held until released or deleted."""
        now = self._clock()

        def work(connection: sqlite3.Connection) -> list[Row]:
            claimed: list[Row] = []
            where = "destination = ? AND owner IS NULL ORDER BY attempts, id LIMIT ?"
            for row in tables.rows(connection, TRACES, where, (destination, most)):
                if claimed and sum(each.size for each in claimed) + row.size > most_bytes:
                    break
                claimed.append(row)
            text = "UPDATE traces SET owner = ?, leased = ? WHERE id = ?"
            connection.executemany(text, [(self.owner, now, row.id) for row in claimed])
            return claimed

        return self.database.run(work)

    def _make_room(self, connection: sqlite3.Connection) -> None:
        while (too_many := tables.counted(connection, "bytes") - self.max_bytes) > 0:
            for table, where in ((DEAD_LETTERS, "1"), (TRACES, "owner IS NULL"), (TRACES, "1")):
                text = f"SELECT id, size FROM {table} WHERE {where} ORDER BY id LIMIT ?"  # noqa: S608  (of this file)
                found = connection.execute(text, (_AT_ONCE,)).fetchall()
                if found:
                    self._drop(connection, table, found, too_many)
                    break
            else:
                return

    def _drop(self, connection: sqlite3.Connection, table: str, found: list[tuple[int, int]], too_many: int) -> None:
        ids = []
        for id_, size in found:
            ids.append(id_)
            too_many -= size
            if too_many <= 0:
                break
        tables.delete(connection, table, ids)
        tables.count(connection, "dropped", len(ids))

    def _expire(self, connection: sqlite3.Connection, now: float) -> None:
        for table in (TRACES, DEAD_LETTERS):
            text = f"DELETE FROM {table} WHERE ended < ?"  # noqa: S608  (of this file)
            gone = connection.execute(text, (now - self.max_age_s,)).rowcount
            tables.count(connection, "expired", gone)


def _leases(connection: sqlite3.Connection) -> list[tuple[str, float]]:
    return connection.execute("SELECT owner, max(leased) FROM traces WHERE owner IS NOT NULL GROUP BY owner").fetchall()
