"""Traces that wait in spools, those of other processes too, on their way to stores that are back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import attrs

from dspy_mlflow_callbacks.export.batch import Batch, Entry
from dspy_mlflow_callbacks.export.lanes import MOST_TRACES, Lanes
from dspy_mlflow_callbacks.export.sending import Sender
from dspy_mlflow_callbacks.export.spool.contents import entry_of
from dspy_mlflow_callbacks.export.spool.destinations import from_text
from dspy_mlflow_callbacks.export.spool.errors import SpoolError
from dspy_mlflow_callbacks.export.spool.owners import LEASE_SECONDS
from dspy_mlflow_callbacks.export.spool.spool import Spool
from dspy_mlflow_callbacks.export.spool.spools import Spools
from dspy_mlflow_callbacks.export.spool.tables import Row

LOOK_SECONDS = 30.0
"""How often a process looks what others have left in a spool."""

_MOST_BYTES = 1_000_000


@attrs.define(eq=False)
class _Place:
    """A spool, and what this process knows of it."""

    spool: Spool
    looks_at: float = 0.0
    waiting: list[str] = attrs.field(factory=list)


class Claimed:
    """Rows of a spool that are being sent: the spool is told what becomes of them.

    Args:
        spools: Those of this process.
        spool: Where the rows are.
        rows: The rows.
        say: Told that a store does not take traces.
    """

    def __init__(
        self, spools: Spools, spool: Spool, rows: Sequence[Row], say: Callable[[Sequence[Entry], Exception], object]
    ) -> None:
        self._spools = spools
        self._spool = spool
        self._rows = {row.id: row for row in rows}
        self._say = say

    def entries(self) -> list[Entry]:
        """Return the rows as traces; what cannot be read as one becomes a dead letter."""
        entries = []
        for row in self._rows.values():
            try:
                entry = entry_of(row)
            except SpoolError as error:  # noqa: PERF203  (a row that cannot be read costs itself)
                self._reject([row.id], error)
            else:
                entry.refusals = int(row.note)
                entries.append(entry)
        return entries

    def stored(self, entries: Sequence[Entry]) -> None:
        """Let traces leave the spool."""
        ids = [entry.row for entry in entries]
        self._spools.look(self._spool, lambda: self._spool.delete(ids))

    def refused(self, entries: Sequence[Entry], error: Exception) -> None:
        """Move traces to the dead letters."""
        self._reject([entry.row for entry in entries], error)

    def away(self, entries: Sequence[Entry], error: Exception) -> None:
        """Say that a store does not take traces."""
        self._say(entries, error)

    def put_back(self, batch: Batch) -> None:
        """Let traces wait as before."""
        ids = [entry.row for entry in batch.entries]
        self._spools.look(self._spool, lambda: self._spool.release(ids))

    def put_last(self, entry: Entry) -> None:
        """Let a trace wait behind others."""
        self._spools.look(self._spool, lambda: self._spool.release([entry.row], failed=True))

    def _reject(self, ids: Sequence[int], error: Exception) -> None:
        rejected = [(self._rows[each], str(error)) for each in ids]
        self._spools.look(self._spool, lambda: self._spool.reject(rejected))


class Redelivery:
    """Delivers what waits in the spools of this process, while the worker has nothing better to do.

    Args:
        spools: The spools.
        sender: Sends batches.
        lanes: Have the way to each store.
        say: Told that a store does not take traces.
        clock: Tells the time in seconds.
    """

    def __init__(
        self,
        spools: Spools,
        sender: Sender,
        lanes: Lanes,
        say: Callable[[Sequence[Entry], Exception], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spools = spools
        self._sender = sender
        self._lanes = lanes
        self._say = say
        self._clock = clock
        self._places: dict[Spool, _Place] = {}
        self._renewed_at = clock()

    def due_in(self, *, hurried: bool) -> float | None:
        """Return in how many seconds there is something to do; None if there is no spool."""
        now = self._clock()
        times = [place.looks_at - now for place in self._open_places()]
        for place in self._open_places():
            times += [
                self._lanes.route(from_text(text)).due_in(hurried=hurried)
                for text in {*place.waiting, *place.spool.expected}
            ]
        return max(0.0, min(times)) if times else None

    def deliver(self, *, hurried: bool) -> Batch | None:
        """Send a batch, and return it; None if nothing waits whose store may be asked."""
        self._renew()
        for place in self._open_places():
            self._look(place)
            for text in list(place.waiting):
                batch = self._deliver(place, text, hurried=hurried)
                if batch is not None:
                    return batch
        return None

    def _open_places(self) -> list[_Place]:
        return [self._places.setdefault(spool, _Place(spool)) for spool in self._spools.known()]

    def _look(self, place: _Place) -> None:
        spool = place.spool
        while spool.expected:
            text = spool.expected.pop()
            if text not in place.waiting:
                place.waiting.append(text)
        if self._clock() >= place.looks_at:
            place.looks_at = self._clock() + LOOK_SECONDS
            if spool.exists():
                found = self._spools.look(spool, spool.destinations) or []
                place.waiting = [text for text in found if _is_readable(text)]

    def _deliver(self, place: _Place, text: str, *, hurried: bool) -> Batch | None:
        destination, spool = from_text(text), place.spool
        route = self._lanes.route(destination)
        if route.due_in(hurried=hurried) > 0:
            return None
        most = min(route.most, MOST_TRACES)
        rows = self._spools.look(spool, lambda: spool.claim(text, most, _MOST_BYTES))
        if not rows:
            place.waiting.remove(text)
            return None
        place.waiting.append(place.waiting.pop(place.waiting.index(text)))  # each in its turn
        claimed = Claimed(self._spools, spool, rows, self._say)
        entries = claimed.entries()
        for is_plain in (True, False):
            alike = [entry for entry in entries if entry.is_plain is is_plain]
            if alike:
                self._sender.send(Batch(destination, alike), claimed)
        return Batch(destination, entries)

    def _renew(self) -> None:
        if self._clock() >= self._renewed_at + LEASE_SECONDS / 5:
            self._renewed_at = self._clock()
            self._spools.renew()


def _is_readable(text: str) -> bool:
    try:
        from_text(text)
    except SpoolError:
        return False
    return True
