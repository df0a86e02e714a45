"""The exporter: what ended traces are handed to, and what delivers them."""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref

import attrs

from dspy_mlflow_callbacks.export.batch import Batch, Entry
from dspy_mlflow_callbacks.export.buffer import Buffer
from dspy_mlflow_callbacks.export.delivery import Deliver, Delivery
from dspy_mlflow_callbacks.export.errors import RefusedError, StoreAwayError
from dspy_mlflow_callbacks.export.tracking_store import deliver
from dspy_mlflow_callbacks.export.waiting import Destination, Limits, Outcome, Prepared, Waiting
from dspy_mlflow_callbacks.export.worker import Settling, Worker
from dspy_mlflow_callbacks.stats import WarnNotStored, logger

_WARN_OF_DROPS_SECONDS = 60.0


class Exporter:
    """Takes ended traces and delivers them in the background, from one thread for the process.

    Args:
        write: Stores a batch from the calling thread, or raises `StoreAwayError` or `RefusedError`.

    Attributes:
        exit_timeout_s: The most seconds that the end of the program waits for what is not stored.
    """

    def __init__(self, write: Deliver = deliver) -> None:
        self.exit_timeout_s = 10.0
        self._write = write
        self._begin()
        _EXPORTERS.add(self)

    def begin_in_child(self) -> None:
        """Begin anew after a fork: what waits is the parent's, its thread is not here, and its locks may be held."""
        self._delivery.forget()
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._buffer = Buffer()
        self._warn = WarnNotStored()
        self._delivery = Delivery(self._write)
        self._settling = Settling(self._buffer, self._warn)
        self._worker: Worker | None = None
        self._drops = _Drops()
        self._is_closed = False

    @property
    def queued(self) -> int:
        """How many traces are not stored yet."""
        return len(self._buffer)

    @property
    def queued_bytes(self) -> int:
        """How many bytes they hold."""
        return self._buffer.size

    def put(self, trace: Waiting, limits: Limits) -> None:
        """Hand over a trace; if there is no room for it, wait or drop it, as *limits* say."""
        if self._is_closed:
            self.deliver_now(trace)
        elif not self._buffer.put(trace, limits):
            self._drops.add()
            trace.done("dropped")
        elif self._worker is None:
            self._start()

    def deliver_now(self, trace: Waiting) -> None:
        """Store a trace before this returns; if its store is away, let it wait for it like all others."""
        try:
            prepared = trace.prepared()
        except Exception as error:  # noqa: BLE001  (a step of the user's)
            trace.done("failed", error)
            return
        if prepared is None:
            trace.done("dropped")
            return
        try:
            self._write(Batch(trace.destination, [Entry(0, trace, trace.size, prepared)]))
        except StoreAwayError as error:
            self._later(trace, prepared, error)
        except RefusedError as error:
            self._fail(trace, error)
        else:
            trace.done("stored")

    def _later(self, trace: Waiting, prepared: Prepared, error: StoreAwayError) -> None:
        if self._is_closed:
            self._fail(trace, error)
        else:
            self.put(_PreparedTrace(trace.destination, trace.size, trace, prepared), Limits())

    def _fail(self, trace: Waiting, error: Exception) -> None:
        self._warn.store(trace.destination.tracking_uri, str(error))
        trace.done("failed", error)

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until all that was put before is stored or given up; return whether it is, in time."""
        return self._buffer.drain(timeout_s)

    def close(self, timeout_s: float) -> None:
        """Deliver what waits within a time limit, give up the rest, and deliver what still comes at once."""
        end = time.monotonic() + timeout_s
        self._is_closed = True
        self.flush(timeout_s)
        for entry in self._buffer.abandon():
            self._fail(entry.trace, TimeoutError(f"the program ended before it was stored, within {timeout_s:g} s"))
        self._buffer.close()
        if self._worker is not None:
            self._worker.join(max(0.0, end - time.monotonic()))

    def _start(self) -> None:
        with self._lock:
            if self._worker is None:
                self._worker = Worker(self._buffer, self._delivery, self._settling)
                self._worker.start()
                atexit.register(self._at_exit)

    def _at_exit(self) -> None:
        self.close(self.exit_timeout_s)


class _Drops:
    """Counts what found no room, and says so once in a while."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._said_at: float | None = None

    def add(self) -> None:
        now = time.monotonic()
        with self._lock:
            self._count += 1
            if self._said_at is not None and now < self._said_at + _WARN_OF_DROPS_SECONDS:
                return
            count, self._count, self._said_at = self._count, 0, now
        logger.warning("%d traces were dropped: more ended than could be stored, and the buffer was full.", count)


@attrs.define(eq=False)
class _PreparedTrace:
    """A trace that was prepared by whom it was first handed to."""

    destination: Destination
    size: int
    trace: Waiting
    leaves: Prepared

    def prepared(self) -> Prepared:
        return self.leaves

    def done(self, outcome: Outcome, error: Exception | None = None) -> None:
        self.trace.done(outcome, error)


_EXPORTERS: weakref.WeakSet[Exporter] = weakref.WeakSet()


def _begin_in_child() -> None:
    for exporter in _EXPORTERS:
        exporter.begin_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_in_child)

EXPORTER = Exporter()
"""The exporter of this process."""
