"""Rows in and out of the spool's tables."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from dspy_mlflow_callbacks.export.spool.errors import DamagedError

TRACES, DEAD_LETTERS = "traces", "dead_letters"

_NOTES = {TRACES: "attempts", DEAD_LETTERS: "reason"}
_TYPES: tuple[Any, ...] = (int, str, str, (float, int), int, bytes, str, (int, str))


@attrs.frozen(kw_only=True)
class Row:
    """A trace as the spool keeps it.

    Attributes:
        id: The row's; 0 where it is not there yet.
        trace_id: MLflow's id of the trace.
        destination: Where it goes, as JSON.
        ended: When it was handed to the spool, in seconds since 1970.
        spans: How many spans it has.
        request: Its spans as an OTLP request (`ExportTraceServiceRequest`).
        extra: What spans cannot say, as JSON.
        note: How often its store has failed over it alone; why it was refused, if it is a dead letter.
    """

    id: int = 0
    trace_id: str
    destination: str
    ended: float
    spans: int
    request: bytes = attrs.field(repr=False)
    extra: str = attrs.field(repr=False)
    note: int | str = 0

    @property
    def size(self) -> int:
        """How many bytes it holds."""
        return len(self.request) + len(self.extra)

    @property
    def checksum(self) -> int:
        """What tells that a byte of it has changed."""
        said = f"{self.trace_id}\0{self.destination}\0{self.extra}"
        return zlib.crc32(said.encode("utf-8", "replace"), zlib.crc32(self.request))


def insert(connection: sqlite3.Connection, table: str, row: Row, owner: str | None = None, leased: float = 0.0) -> int:
    """Add a row, and return its id."""
    values: dict[str, Any] = {
        "trace_id": row.trace_id,
        "destination": row.destination,
        "ended": row.ended,
        "spans": row.spans,
        "request": row.request,
        "extra": row.extra,
        "size": row.size,
        "checksum": row.checksum,
        _NOTES[table]: row.note,
    }
    if table == TRACES:
        values |= {"owner": owner, "leased": leased}
    marks = ", ".join("?" * len(values))
    text = f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})"  # noqa: S608  (names of this file)
    return int(connection.execute(text, tuple(values.values())).lastrowid or 0)


def select(
    connection: sqlite3.Connection, table: str, where: str = "1 ORDER BY id", parameters: Sequence[Any] = ()
) -> Iterator[tuple[Any, ...]]:
    """Yield the values of rows as SQLite has them: `check` makes rows of them."""
    columns = f"id, trace_id, destination, ended, spans, request, extra, {_NOTES[table]}, checksum"
    yield from connection.execute(f"SELECT {columns} FROM {table} WHERE {where}", parameters)  # noqa: S608  (likewise)


def check(values: tuple[Any, ...]) -> Row:
    """Return the row that SQLite has.

    Raises:
        DamagedError: if it is not what was written.
    """
    if all(isinstance(value, type_) for value, type_ in zip(values, _TYPES, strict=False)):
        id_, trace_id, destination, ended, spans, request, extra, note, checksum = values
        row = Row(
            id=id_,
            trace_id=trace_id,
            destination=destination,
            ended=ended,
            spans=spans,
            request=request,
            extra=extra,
            note=note,
        )
        if row.checksum == checksum:
            return row
    message = f"a row's checksum does not fit: {values[0]!r}"
    raise DamagedError(message)


def rows(
    connection: sqlite3.Connection, table: str, where: str = "1 ORDER BY id", parameters: Sequence[Any] = ()
) -> Iterator[Row]:
    """Yield rows; raise `DamagedError` at one that is not what was written."""
    return map(check, select(connection, table, where, parameters))


def delete(connection: sqlite3.Connection, table: str, ids: Sequence[int]) -> None:
    """Take rows out."""
    connection.executemany(f"DELETE FROM {table} WHERE id = ?", [(each,) for each in ids])  # noqa: S608  (likewise)


def count(connection: sqlite3.Connection, name: str, more: int) -> None:
    """Count something that has happened to the spool."""
    connection.execute("UPDATE counts SET value = value + ? WHERE name = ?", (more, name))


def counted(connection: sqlite3.Connection, name: str) -> int:
    """Return what was counted."""
    return int(connection.execute("SELECT value FROM counts WHERE name = ?", (name,)).fetchone()[0])
