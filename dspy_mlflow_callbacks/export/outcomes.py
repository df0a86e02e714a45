"""What becomes of each trace: its preparation, its end, and the one line that says so if it is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from dspy_mlflow_callbacks.export.batch import Entry
from dspy_mlflow_callbacks.export.buffer import Buffer
from dspy_mlflow_callbacks.export.spool.database import BUSY_SECONDS
from dspy_mlflow_callbacks.export.spool.spools import Spools
from dspy_mlflow_callbacks.export.waiting import Outcome, Waiting
from dspy_mlflow_callbacks.stats import WarnNotStored, logger

_WARN_AGAIN_SECONDS = 60.0


class Outcomes:
    """Prepares traces, and tells each what became of it; any thread may.

    Args:
        buffer: Where the traces are; they leave it here.
        spools: Where traces wait that their store does not take.
        clock: Tells the time in seconds.
    """

    def __init__(self, buffer: Buffer, spools: Spools, clock: Callable[[], float] = time.monotonic) -> None:
        self._buffer = buffer
        self._spools = spools
        self._clock = clock
        self._warn = WarnNotStored()
        self._lock = threading.Lock()
        self._drops = 0
        self._silent_until = clock()

    def prepare(self, entry: Entry) -> bool:
        """Find out what leaves of a trace.

        Returns:
            Whether something does. If not, the trace has been told so, or another thread finds out just now.
        """
        if entry.prepared is None:
            with self._lock:
                if entry.is_preparing:
                    return False
                entry.is_preparing = True
            try:
                entry.prepared = entry.trace.prepared()
            except Exception as error:  # noqa: BLE001  (a step of the user's)
                self._leave(entry, "failed", error)
                return False
            if entry.prepared is None:
                self._leave(entry, "dropped")
        return entry.prepared is not None

    def stored(self, entries: Sequence[Entry]) -> None:
        """Tell traces that they are stored."""
        for entry in entries:
            self._leave(entry, "stored")
        self._spools.stored(entries)

    def refused(self, entries: Sequence[Entry], error: Exception) -> None:
        """Tell traces that their store has refused them, keep them with the reason, and say so once for the store."""
        self.away(entries, error)
        kept = self._spools.reject(entries, error)
        for entry in entries:
            self._leave(entry, "rejected" if entry in kept else "failed", error)

    def failed(self, entry: Entry, error: Exception) -> None:
        """Tell a trace that it is given up, and say so once for its store."""
        self._warn.store(entry.trace.destination.tracking_uri, str(error))
        self._leave(entry, "failed", error)

    def keep(self, entries: Sequence[Entry], timeout_s: float = BUSY_SECONDS) -> list[Entry]:
        """Let traces that are prepared wait in their spools, and tell them so; return those that do."""
        kept = self._spools.keep(entries, timeout_s)
        for entry in kept:
            self._leave(entry, "spooled")
        return kept

    def away(self, entries: Sequence[Entry], error: Exception) -> None:
        """Say once that a store does not take traces."""
        uri = entries[0].trace.destination.tracking_uri
        self._warn.store(uri, str(error), may_wait=any(entry.spool is not None for entry in entries))

    def no_room(self, trace: Waiting) -> None:
        """Tell a trace that there was no room for it, and say so once a minute."""
        with self._lock:
            self._drops += 1
            if self._clock() >= self._silent_until:
                self._silent_until = self._clock() + _WARN_AGAIN_SECONDS
                logger.warning("The buffer is full: %d traces dropped, as more end than are stored.", self._drops)
        self._tell(trace, "dropped")

    def gives_up(self, entry: Entry) -> None:
        """Tell a trace that is held that there is no room for it."""
        if self._buffer.leave(entry):
            self.no_room(entry.trace)

    def _leave(self, entry: Entry, outcome: Outcome, error: Exception | None = None) -> None:
        if self._buffer.leave(entry):
            self._tell(entry.trace, outcome, error)

    def _tell(self, trace: Waiting, outcome: Outcome, error: Exception | None = None) -> None:
        try:
            trace.done(outcome, error)
        except Exception as failure:  # noqa: BLE001  (neither the worker nor the program ends by it)
            self._warn("done", "A trace could not be told what became of it.", failure)
