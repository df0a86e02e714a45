"""Who stores a batch: the worker's own thread, or, for an SQL store under load, the exporter process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.export.batch import Batch
from dspy_mlflow_callbacks.export.errors import RefusedError, StoreAwayError
from dspy_mlflow_callbacks.export.exporter_process import ExporterProcess, ProcessEndedError, can_start
from dspy_mlflow_callbacks.export.lanes import MOST_TRACES
from dspy_mlflow_callbacks.export.pace import Pace
from dspy_mlflow_callbacks.export.packing import is_server
from dspy_mlflow_callbacks.export.tracking_store import deliver
from dspy_mlflow_callbacks.export.waiting import Destination

MANY_TRACES = 100
_BEHIND_SECONDS = 1.0
_IDLE_SECONDS = 60.0
_MOST_DEATHS = 2
_FORK_SECONDS = 5.0

# Sending to a server, or to the process, is mostly waiting. A thread that writes to a database computes.
SENDING = Pace(share=0.25, most=MOST_TRACES)
WRITING = Pace(share=0.1, most=10)
# While a process is on its way that will do it, nothing is written in the program.
HOLDING = Pace(share=0.1, most=10, waits_s=0.05)

Deliver = Callable[[Batch], None]


class Delivery:
    """Stores batches for the worker, and only in its thread.

    Args:
        write: Stores a batch from the calling thread, or raises `StoreAwayError` or `RefusedError`.
        clock: Tells the time in seconds.
    """

    def __init__(self, write: Deliver = deliver, clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._helper = Helper(clock)
        self._writing = threading.Lock()
        self._is_held = False

    def deliver(self, batch: Batch) -> None:
        """Store a batch; raise `StoreAwayError` or `RefusedError` if it is not stored."""
        if is_server(batch.destination):
            self._write(batch)
        elif not (batch.is_plain and self._helper.deliver(batch)):
            with self._writing:
                self._write(batch)

    def before_fork(self) -> None:
        """Let a batch on its way to a database come to its end, but for one that takes very long.

        The locks of MLflow and SQLAlchemy that the worker holds now would be held in a fork for ever.
        """
        self._is_held = self._writing.acquire(timeout=_FORK_SECONDS)

    def after_fork(self) -> None:
        """Go on."""
        if self._is_held:
            self._writing.release()

    def pace(self, destination: Destination) -> Pace:
        """Return how fast the worker may go."""
        uri = destination.tracking_uri
        if is_server(destination) or self._helper.serves(uri):
            return SENDING
        return HOLDING if self._helper.is_expected(uri) else WRITING

    def note_backlog(self, destination: Destination, traces: int) -> None:
        """Hear how many traces wait for the store of a destination."""
        if not is_server(destination):
            self._helper.note_backlog(destination.tracking_uri, traces)

    def rest(self) -> float | None:
        """Hear that nothing waits; return after how many seconds to say so again, None if there is no need."""
        return self._helper.rest()

    def close(self) -> None:
        """End what was started."""
        self._helper.close()

    def forget(self) -> None:
        """Leave what was started to the process that this one is a fork of."""
        self._helper.forget()


class Helper:
    """The exporter process, while there is one: started when a backlog lasts, ended when it is idle for a minute.

    Args:
        clock: Tells the time in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._process: ExporterProcess | None = None
        self._deaths = 0
        self._used_at = 0.0
        self._behind_since: float | None = None
        self._uris: dict[str, str | None] = {}

    def serves(self, uri: str) -> bool:
        """Return whether the process is there and can write to a store."""
        return self._process is not None and self._is_ready(self._process) and self._uri(uri) is not None

    def is_expected(self, uri: str) -> bool:
        """Return whether the process is about to serve a store: it starts, or will if the backlog lasts."""
        is_coming = self._behind_since is not None and self._deaths < _MOST_DEATHS and can_start()
        return (self._process is not None or is_coming) and self._uri(uri) is not None

    def deliver(self, batch: Batch) -> bool:
        """Store a batch; return False if it is to be stored otherwise."""
        process = self._process
        if process is None or not self._is_ready(process):
            return False
        uri = self._uri(batch.destination.tracking_uri)
        if uri is None:
            return False
        self._used_at = self._clock()
        try:
            process.deliver(batch, uri)
        except ProcessEndedError:
            self._bury(process)
            return False
        return True

    def note_backlog(self, uri: str, traces: int) -> None:
        """Start the process if many traces have waited for a while."""
        now = self._clock()
        if traces <= MANY_TRACES:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = now
        elif self._process is None and now >= self._behind_since + _BEHIND_SECONDS:
            self._start(uri)

    def rest(self) -> float | None:
        """End the process if it has been idle for long enough; return in how many seconds it will have been."""
        if self._process is None:
            return None
        left = self._used_at + _IDLE_SECONDS - self._clock()
        if left > 0:
            return left
        self.close()
        return None

    def close(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.close()
            self._process = None

    def forget(self) -> None:
        """Leave the process to whom it belongs."""
        if self._process is not None:
            self._process.disown()
            self._process = None

    def _start(self, uri: str) -> None:
        self._behind_since = None  # the next attempt, if there is one, in a while
        elsewhere = self._uri(uri)
        if elsewhere is None or self._deaths >= _MOST_DEATHS or not can_start():
            return
        self._used_at = self._clock()
        try:
            self._process = ExporterProcess(elsewhere)
        except (OSError, ProcessEndedError):
            self._deaths += 1

    def _is_ready(self, process: ExporterProcess) -> bool:
        try:
            return process.is_ready()
        except (ProcessEndedError, StoreAwayError, RefusedError):  # or it could not open the store
            self._bury(process)
            return False

    def _bury(self, process: ExporterProcess) -> None:
        process.kill()
        self._process = None
        self._deaths += 1

    def _uri(self, uri: str) -> str | None:
        if uri not in self._uris:
            try:
                self._uris[uri] = internals.uri_elsewhere(uri)
            except Exception:  # noqa: BLE001  (the store cannot be opened now; who writes to it will say why)
                return None
        return self._uris[uri]
