"""The spools of this process, by folder, and what happens where one cannot be used: traces wait in memory only."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import attrs

from dspy_mlflow_callbacks.export.batch import Entry
from dspy_mlflow_callbacks.export.spool.contents import row_of
from dspy_mlflow_callbacks.export.spool.database import BUSY_SECONDS, Database
from dspy_mlflow_callbacks.export.spool.destinations import as_text
from dspy_mlflow_callbacks.export.spool.errors import SpoolError
from dspy_mlflow_callbacks.export.spool.settings import FSYNC, SpoolSettings
from dspy_mlflow_callbacks.export.spool.spool import Spool
from dspy_mlflow_callbacks.export.spool.tables import Row
from dspy_mlflow_callbacks.stats import WarnOnce

AGAIN_SECONDS = 30.0
"""After how long a spool that could not be used is tried again: a call must not wait for it each time."""

_MOST_AT_ONCE = 100


class Spools:
    """Keeps traces in the spools that their callbacks name.

    Args:
        clock: Tells the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._spools: dict[str, Spool] = {}
        self._off_until: dict[str, float] = {}
        self._warn = WarnOnce()

    def known(self) -> list[Spool]:
        """Return those that can be used now."""
        now = self._clock()
        return [spool for folder, spool in list(self._spools.items()) if self._off_until.get(folder, 0.0) <= now]

    def open(self, settings: SpoolSettings) -> Spool:
        """Return the spool that a callback names; callbacks with one folder have one, with the last one's limits."""
        spool = self._spools.get(settings.folder)
        if spool is None:
            database = Database(Path(settings.folder), self._say_damage)
            spool = self._spools[settings.folder] = Spool(database, settings.max_bytes, settings.max_age_s)
        spool.max_bytes, spool.max_age_s = settings.max_bytes, settings.max_age_s
        if settings.durable == FSYNC:
            spool.database.fsync = True
        return spool

    def keep(self, entries: Iterable[Entry], timeout_s: float = BUSY_SECONDS) -> list[Entry]:
        """Let traces that are prepared wait in their spools, for whoever delivers them; return those that do now."""
        kept: list[Entry] = []
        named = sorted((entry for entry in entries if entry.spool is not None), key=_folder)
        for _, group in groupby(named, _folder):
            waiting = list(group)
            for start in range(0, len(waiting), _MOST_AT_ONCE):
                kept += self._keep(waiting[start : start + _MOST_AT_ONCE], timeout_s)
        return kept

    def write_ahead(self, entry: Entry, timeout_s: float = BUSY_SECONDS) -> None:
        """Write a trace that this process delivers, so that it is not lost with it."""
        if entry.spool is None or self._is_off(entry.spool.folder):
            return
        row = self._row(entry)
        if row is not None:
            entry.row = self._use(entry.spool, lambda spool: spool.add(row, is_mine=True, timeout_s=timeout_s)) or 0

    def stored(self, entries: Iterable[Entry]) -> None:
        """Take traces out that are stored."""
        rows: dict[SpoolSettings, list[int]] = {}
        for entry in entries:
            if entry.spool is not None and entry.row:
                rows.setdefault(entry.spool, []).append(entry.row)
        for settings, ids in rows.items():
            self._use(settings, _deletes(ids))

    def reject(self, entries: Iterable[Entry], error: Exception) -> list[Entry]:
        """Keep traces that their store has refused, with the reason, as dead letters; return those that are."""
        kept = []
        for entry in entries:
            if entry.spool is None or self._is_off(entry.spool.folder):
                continue
            row = self._row(entry)
            if row is not None and self._use(entry.spool, _rejects(attrs.evolve(row, id=entry.row), str(error))):
                kept.append(entry)
        return kept

    def renew(self) -> None:
        """Hold on to what was written ahead."""
        for folder, spool in list(self._spools.items()):
            if spool.exists():
                self._try(folder, spool.renew)

    def look(self, spool: Spool, work: Callable[[], Any]) -> Any:
        """Return what *work* does with a spool; None if that cannot be used."""
        return self._try(str(spool.file.parent), work)

    def before_fork(self) -> None:
        """Let no transaction be under way."""
        for spool in list(self._spools.values()):
            spool.database.before_fork()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        for spool in list(self._spools.values()):
            spool.database.after_fork_in_parent()

    def after_fork_in_child(self) -> None:
        """Leave all to the parent."""
        for spool in list(self._spools.values()):
            spool.database.after_fork_in_child()
        self._spools = {}

    def close(self) -> None:
        """Close the files."""
        for spool in list(self._spools.values()):
            spool.database.close()

    def _keep(self, entries: Sequence[Entry], timeout_s: float) -> list[Entry]:
        settings = entries[0].spool
        if settings is None or self._is_off(settings.folder):
            return []
        ahead = [entry for entry in entries if entry.row]
        new = [(entry, row) for entry in entries if not entry.row and (row := self._row(entry)) is not None]
        kept: list[Entry] = []
        if ahead and self._use(settings, _releases([entry.row for entry in ahead])):
            kept += ahead
        if new and self._use(settings, lambda spool: spool.add_all([(row, None) for _, row in new], timeout_s)):
            kept += [entry for entry, _ in new]
        if kept:
            self.open(settings).expected |= {as_text(entry.trace.destination) for entry in kept}
        return kept

    def _row(self, entry: Entry) -> Row | None:
        try:
            return row_of(entry, time.time())
        except Exception as error:  # noqa: BLE001  (a store in memory, or what cannot be encoded)
            self._warn(type(error), f"A trace cannot wait in the spool: {error}")
            return None

    def _is_off(self, folder: str) -> bool:
        return self._clock() < self._off_until.get(folder, 0.0)

    def _use(self, settings: SpoolSettings, work: Callable[[Spool], Any]) -> Any:
        spool = self.open(settings)
        return self._try(settings.folder, lambda: work(spool))

    def _try(self, folder: str, work: Callable[[], Any]) -> Any:
        if self._is_off(folder):
            return None
        try:
            return work()
        except SpoolError as error:
            self._off_until[folder] = self._clock() + AGAIN_SECONDS
            self._warn(folder, f"The spool in {folder} cannot be used: {error}. Traces wait in memory only.")
            return None

    def _say_damage(self, aside: Path, saved: int) -> None:
        self._warn(aside, f"The spool was damaged, and is begun anew: {saved} traces were saved from {aside}.")


def _folder(entry: Entry) -> str:
    return entry.spool.folder if entry.spool is not None else ""


def _deletes(ids: list[int]) -> Callable[[Spool], None]:
    return lambda spool: spool.delete(ids)


def _rejects(row: Row, reason: str) -> Callable[[Spool], bool]:
    def reject(spool: Spool) -> bool:
        spool.reject([(row, reason)])
        return True

    return reject


def _releases(ids: list[int]) -> Callable[[Spool], bool]:
    def release(spool: Spool) -> bool:
        spool.release(ids)
        return True

    return release
