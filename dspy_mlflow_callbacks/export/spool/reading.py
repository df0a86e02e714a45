"""What is in a spool, for people and for other rooms: this only reads."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import orjson

from dspy_mlflow_callbacks.export.spool import tables
from dspy_mlflow_callbacks.export.spool.database import read
from dspy_mlflow_callbacks.export.spool.errors import DamagedError
from dspy_mlflow_callbacks.export.spool.settings import FILE, SpoolSettings
from dspy_mlflow_callbacks.export.spool.tables import DEAD_LETTERS, TRACES, Row

_REASONS = 20


@attrs.frozen(kw_only=True)
class Group:
    """Traces of a spool with one destination.

    Attributes:
        destination: Where they go: tracking URI, experiment, run, workspace.
        traces: How many there are.
        bytes: What they hold.
        oldest_s: For how many seconds the oldest one has waited.
        reason: Why their store has refused them; empty for those that wait.
    """

    destination: dict[str, Any]
    traces: int
    bytes: int
    oldest_s: float
    reason: str = ""

    def to_text(self) -> str:
        """Return a line for people."""
        there = self.destination
        run = f", run {there['run_id']}" if there.get("run_id") else ""
        where = f"{there.get('tracking_uri')}, experiment {there.get('experiment_id')}{run}"
        why = f": {self.reason}" if self.reason else ""
        return f"  {self.traces} traces, {self.bytes} bytes, oldest {self.oldest_s:.0f} s, for {where}{why}"


@attrs.frozen(kw_only=True)
class Status:
    """What is in a spool.

    Attributes:
        folder: Where it is.
        waiting: Traces that wait, by destination.
        dead_letters: Traces that were refused, by destination and reason.
        dropped: How many have left unstored since it began, since there was no room for them.
        expired: How many, since they had waited for too long.
        damaged: How often it was damaged.
    """

    folder: str
    waiting: list[Group]
    dead_letters: list[Group]
    dropped: int = 0
    expired: int = 0
    damaged: int = 0

    @property
    def traces(self) -> int:
        """How many traces wait."""
        return sum(group.traces for group in self.waiting)

    @property
    def dead_traces(self) -> int:
        """How many traces were refused."""
        return sum(group.traces for group in self.dead_letters)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {**attrs.asdict(self), "traces": self.traces, "dead_traces": self.dead_traces}

    def to_text(self) -> str:
        """Return it for people."""
        lines = [f"{self.folder}: {self.traces} traces wait, {self.dead_traces} were refused."]
        lines += [group.to_text() for group in self.waiting]
        lines += ["Refused:", *(group.to_text() for group in self.dead_letters)] if self.dead_letters else []
        counts = {"dropped for want of room": self.dropped, "expired": self.expired, "times damaged": self.damaged}
        said = [f"{count} {what}" for what, count in counts.items() if count]
        return "\n".join([*lines, *(["Since it began: " + ", ".join(said) + "."] if said else [])])


def status(settings: SpoolSettings) -> Status:
    """Return what is in a spool.

    Raises:
        SpoolError: if it cannot be read.
    """
    file = Path(settings.folder, FILE)
    if not file.exists():
        return Status(folder=settings.folder, waiting=[], dead_letters=[])

    def work(database: sqlite3.Connection) -> Status:
        return Status(
            folder=settings.folder,
            waiting=list(_groups(database, TRACES, "''")),
            dead_letters=list(_groups(database, DEAD_LETTERS, "reason")),
            **{name: tables.counted(database, name) for name in ("dropped", "expired", "damaged")},
        )

    return read(file, work)


def all_rows(settings: SpoolSettings, *, dead_letters: bool = False) -> list[Row]:
    """Return all traces that can be read, those that wait first.

    Raises:
        SpoolError: if the spool cannot be read.
    """
    return _rows(settings, [TRACES, DEAD_LETTERS] if dead_letters else [TRACES])


def rows_of(settings: SpoolSettings, trace_id: str) -> list[Row]:
    """Return all that a spool has of a trace: it may have come in parts.

    Raises:
        SpoolError: if the spool cannot be read.
    """
    return _rows(settings, [TRACES, DEAD_LETTERS], "trace_id = ? ORDER BY id", (trace_id,))


def _rows(settings: SpoolSettings, names: list[str], *where: Any) -> list[Row]:
    file = Path(settings.folder, FILE)
    if not file.exists():
        return []
    return read(file, lambda database: [row for name in names for row in _whole(database, name, *where)])


def _whole(database: sqlite3.Connection, table: str, *where: Any) -> Iterator[Row]:
    for values in tables.select(database, table, *where):
        try:
            yield tables.check(values)
        except DamagedError:  # noqa: PERF203  (a damaged row costs itself)
            continue


def _groups(database: sqlite3.Connection, table: str, reason: str) -> Iterator[Group]:
    text = (
        f"SELECT destination, {reason} AS why, count(*), sum(size), min(ended) "  # noqa: S608  (names of this file)
        f"FROM {table} GROUP BY destination, why ORDER BY 3 DESC LIMIT {_REASONS}"
    )
    for destination, why, count, size, ended in database.execute(text):
        yield Group(
            destination=orjson.loads(destination),
            traces=count,
            bytes=size,
            oldest_s=max(0.0, time.time() - ended),
            reason=why,
        )
