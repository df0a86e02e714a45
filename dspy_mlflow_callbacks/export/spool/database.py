"""The spool's database: opened when it is needed, private, and begun anew where it is damaged."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import TypeVar

from dspy_mlflow_callbacks.export.spool.errors import SpoolError, is_damage
from dspy_mlflow_callbacks.export.spool.guard import Guard
from dspy_mlflow_callbacks.export.spool.salvage import set_aside
from dspy_mlflow_callbacks.export.spool.schema import SCHEMA
from dspy_mlflow_callbacks.export.spool.settings import FILE

Done = TypeVar("Done")
Work = Callable[[sqlite3.Connection], Done]

BUSY_SECONDS = 5.0
_FORK_SECONDS = 5.0
_MOST_OPENINGS = 10

# What a fork has of its parent. To close it there would end the parent's use of the log.
_PARENTS: list[sqlite3.Connection] = []


class Database:
    """Runs transactions, for any thread of this process, one at a time.

    Args:
        folder: Where it lies; made if it is not there.
        on_damage: Told which file was set aside, and how many traces were saved from it.
    """

    def __init__(self, folder: Path, on_damage: Callable[[Path, int], object] = lambda _file, _saved: None) -> None:
        self.file = folder / FILE
        self.fsync = False
        self._on_damage = on_damage
        self._lock = threading.RLock()
        self._is_held = False
        self._guard = Guard(folder / "spool.lock")
        self._opening = Guard(folder / "opening.lock")
        self._connection: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None

    def run(self, work: Work[Done], timeout_s: float = BUSY_SECONDS) -> Done:
        """Return what *work* returns, done in one transaction.

        Args:
            work: Is given the connection.
            timeout_s: The most seconds to wait for other threads, and again for other processes.

        Raises:
            SpoolError: if the database cannot be used; nothing is done then.
        """
        if not self._lock.acquire(timeout=timeout_s):
            message = f"it is busy for more than {timeout_s:g} s"
            raise SpoolError(message)
        try:
            return self._run(work, timeout_s)
        finally:
            self._lock.release()

    def shrink(self) -> None:
        """Give the pages back that nothing is on."""
        with self._lock:
            if self._connection is not None:
                with suppress(sqlite3.Error):  # locked: then the next time
                    # Not by `execute`, which does one step of it, a page.
                    self._connection.executescript("PRAGMA incremental_vacuum")

    def exists(self) -> bool:
        """Return whether there is anything to be looked at."""
        return self.file.exists()

    def close(self) -> None:
        """Close the file; it is opened again when it is needed."""
        with self._lock:
            self._close()
            self._guard.close()
            self._opening.close()

    def before_fork(self) -> None:
        """Let no transaction be under way that a fork would find so for ever, but for one that takes very long."""
        self._is_held = self._lock.acquire(timeout=_FORK_SECONDS)

    def after_fork_in_parent(self) -> None:
        """Go on."""
        if self._is_held:
            self._is_held = False
            self._lock.release()

    def after_fork_in_child(self) -> None:
        """Leave what is open to the parent."""
        if self._connection is not None:
            _PARENTS.append(self._connection)
            self._connection = None
        self._lock = threading.RLock()
        self._guard.close()
        self._opening.close()

    def _run(self, work: Work[Done], timeout_s: float) -> Done:
        if self._connection is not None and self._connection.in_transaction:
            return work(self._connection)  # a signal's handler ends a trace in the middle of a transaction
        try:
            return self._in_transaction(work, timeout_s)
        except (sqlite3.Error, OSError) as error:
            if not is_damage(error):
                raise SpoolError(str(error)) from error
        try:
            self._begin_anew(timeout_s)
            return self._in_transaction(work, timeout_s)
        except (sqlite3.Error, OSError) as error:
            raise SpoolError(str(error)) from error

    def _in_transaction(self, work: Work[Done], timeout_s: float) -> Done:
        for _ in range(_MOST_OPENINGS):
            self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._guard.shared(timeout_s):
                if self._connection is not None and _identity(self.file) == self._opened:
                    return _transact(self._connection, work, timeout_s, fsync=self.fsync)
            # Another process may have set the file aside. A new one is made by one process.
            with self._opening.alone(timeout_s), self._guard.shared(timeout_s):
                self._close()
                self._connection = connect(self.file, timeout_s)
                self._opened = _identity(self.file)
        message = "its file vanishes again and again"
        raise SpoolError(message)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _begin_anew(self, timeout_s: float) -> None:
        self._close()
        with self._guard.alone(timeout_s):
            found = set_aside(self.file, connect)
        if found is not None:
            self._on_damage(*found)


def _transact(connection: sqlite3.Connection, work: Work[Done], timeout_s: float, *, fsync: bool) -> Done:
    connection.execute(f"PRAGMA busy_timeout = {int(timeout_s * 1000)}")
    connection.execute(f"PRAGMA synchronous = {'FULL' if fsync else 'NORMAL'}")
    connection.execute("BEGIN IMMEDIATE")
    try:
        done = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
    return done


def connect(file: Path, timeout_s: float = BUSY_SECONDS) -> sqlite3.Connection:
    """Open a database for writing, with all tables, and readable by its owner only."""
    with suppress(FileExistsError):
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))  # its log gets the same rights
    connection = sqlite3.connect(file, timeout=timeout_s, isolation_level=None, check_same_thread=False)
    try:
        connection.text_factory = _text
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(SCHEMA)
    except BaseException:
        connection.close()
        raise
    return connection


def read(file: Path, work: Work[Done]) -> Done:
    """Return what *work* returns, done on a connection that only reads.

    Raises:
        SpoolError: if the database cannot be read.
    """
    try:
        with closing(
            sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)
        ) as database:
            database.text_factory = _text
            return work(database)
    except sqlite3.Error as error:
        raise SpoolError(str(error)) from error


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")  # damaged bytes are no reason to stop: a checksum finds them


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
