"""What becomes of each trace: its preparation, its end, and the one line that says so if it is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from dspy_mlflow_callbacks.export.batch import Entry
from dspy_mlflow_callbacks.export.buffer import Buffer
from dspy_mlflow_callbacks.export.waiting import Destination, Outcome, Waiting
from dspy_mlflow_callbacks.stats import WarnNotStored, logger

_WARN_AGAIN_SECONDS = 60.0


class Outcomes:
    """Prepares traces, and tells each what became of it; any thread may.

    Args:
        buffer: Where the traces are; they leave it here.
        clock: Tells the time in seconds.
    """

    def __init__(self, buffer: Buffer, clock: Callable[[], float] = time.monotonic) -> None:
        self._buffer = buffer
        self._clock = clock
        self._warn = WarnNotStored()
        self._lock = threading.Lock()
        self._drops = 0
        self._silent_until = clock()

    def prepare(self, entry: Entry) -> bool:
        """Find out what leaves of a trace; return False if nothing does, and it has been told so."""
        if entry.prepared is None:
            try:
                entry.prepared = entry.trace.prepared()
            except Exception as error:  # noqa: BLE001  (a step of the user's)
                self._leave(entry, "failed", error)
                return False
            if entry.prepared is None:
                self._leave(entry, "dropped")
        return entry.prepared is not None

    def stored(self, entry: Entry) -> None:
        """Tell a trace that it is stored."""
        self._leave(entry, "stored")

    def failed(self, entry: Entry, error: Exception) -> None:
        """Tell a trace that it is given up, and say so once for its store."""
        self.away(entry.trace.destination, error)
        self._leave(entry, "failed", error)

    def away(self, destination: Destination, error: Exception) -> None:
        """Say once that a store does not take traces."""
        self._warn.store(destination.tracking_uri, str(error))

    def no_room(self, trace: Waiting) -> None:
        """Tell a trace that there was no room for it, and say so once a minute."""
        with self._lock:
            self._drops += 1
            if self._clock() >= self._silent_until:
                self._silent_until = self._clock() + _WARN_AGAIN_SECONDS
                logger.warning("The buffer is full: %d traces dropped, as more end than are stored.", self._drops)
        self._tell(trace, "dropped")

    def _leave(self, entry: Entry, outcome: Outcome, error: Exception | None = None) -> None:
        if self._buffer.leave(entry):
            self._tell(entry.trace, outcome, error)

    def _tell(self, trace: Waiting, outcome: Outcome, error: Exception | None = None) -> None:
        try:
            trace.done(outcome, error)
        except Exception as failure:  # noqa: BLE001  (neither the worker nor the program ends by it)
            self._warn("done", "A trace could not be told what became of it.", failure)
