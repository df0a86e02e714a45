"""The exporter: what ended traces are handed to."""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections.abc import Callable

import attrs

from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.export.batch import Batch, Entry
from dspy_mlflow_callbacks.export.buffer import NEVER, Buffer
from dspy_mlflow_callbacks.export.delivery import Deliver, Delivery
from dspy_mlflow_callbacks.export.errors import StoreAwayError
from dspy_mlflow_callbacks.export.outcomes import Outcomes
from dspy_mlflow_callbacks.export.spool.spools import Spools
from dspy_mlflow_callbacks.export.tracking_store import deliver
from dspy_mlflow_callbacks.export.waiting import Limits, Waiting
from dspy_mlflow_callbacks.export.worker import Worker
from dspy_mlflow_callbacks.forks import FORKS

_MOST_AT_ONCE = 100
_RESCUE_SECONDS = 0.001
_BREATH_SECONDS = 0.01
_FLUSH_SECONDS = 30.0


class Exporter:
    """Takes ended traces, and delivers them in the background: one thread for the process, begun by the first trace.

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

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._buffer = Buffer()
        self._spools = Spools()
        self._outcomes = Outcomes(self._buffer, self._spools)
        self._delivery = Delivery(self._write)
        self._worker: Worker | None = None
        self._is_closed = False
        self._has_overflowed = False  # into the spool, for want of room

    def before_fork(self) -> None:
        """Let no lock be held that a fork would find held for ever."""
        self._spools.before_fork()
        self._delivery.before_fork()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._delivery.after_fork()
        self._spools.after_fork_in_parent()

    def after_fork_in_child(self) -> None:
        """Begin anew: what waits is the parent's, its thread is not here, and its locks may be held."""
        self._delivery.forget()
        self._spools.after_fork_in_child()
        self._begin()

    @property
    def queued(self) -> int:
        """How many traces are not stored yet."""
        return len(self._buffer)

    @property
    def queued_bytes(self) -> int:
        """How many bytes they hold."""
        return self._buffer.size

    def put(self, trace: Waiting, limits: Limits) -> None:
        """Hand over a trace; if there is no room for it, it goes to the spool, waits or is dropped, as *limits* say."""
        if limits.spool is not None:
            self._spools.open(limits.spool)  # what waits there is delivered too
        if self._is_closed:
            self.deliver_now(trace, limits)
        elif limits.is_durable:
            self._put_in_spool_too(trace, limits)
        elif self._buffer.put(trace, limits if limits.spool is None else attrs.evolve(limits, on_full="drop")):
            self._start()
        elif limits.spool is None:
            self._outcomes.no_room(trace)
        else:
            self._admit(self._buffer.hold(trace, limits), limits)

    def deliver_now(self, trace: Waiting, limits: Limits | None = None) -> None:
        """Store a trace before this returns; one whose store is away waits for it like all others."""
        self._store(self._buffer.hold(trace, limits), is_durable=limits is not None and limits.is_durable)

    def _put_in_spool_too(self, trace: Waiting, limits: Limits) -> None:
        entry = self._buffer.hold(trace, limits)
        if self._outcomes.prepare(entry):
            self._spools.write_ahead(entry, limits.max_block_s)
            self._admit(entry, limits)

    def _admit(self, entry: Entry, limits: Limits) -> None:
        """Let a trace that is held wait: for the worker, or, where there is no room, in the spool."""
        if self._buffer.is_full(limits):
            if not self._outcomes.prepare(entry):
                return
            if self._outcomes.keep([entry], limits.max_block_s):
                self._has_overflowed = True
                self._start()
                self._buffer.nudge()
                return
            if not self._buffer.gets_room(limits):
                self._outcomes.gives_up(entry)
                return
        self._buffer.wait_again(entry)
        self._start()

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until all that was handed over before is stored or given up; return whether it is, in time."""
        end = time.monotonic() + (_FLUSH_SECONDS if timeout_s is None else timeout_s)
        if not self._buffer.drain(timeout_s):
            return False
        if self._has_overflowed and self._worker is not None:  # of a store that is there, but slower than the program
            self._has_overflowed = False
            self._worker.wait_until_idle(max(0.0, end - time.monotonic()))
        return True

    def close(self, timeout_s: float) -> None:
        """Deliver what waits within a time limit, let the rest wait in the spool, and deliver what comes at once.

        What is in neither when the time is up is given up.
        """
        end = time.monotonic() + timeout_s
        self._is_closed = True
        self._buffer.end()
        if not self.flush(max(0.0, timeout_s - self._seconds_to_rescue(timeout_s))):
            self._rescue(end)
        elif self._worker is not None:
            self._worker.wait_until_idle(max(0.0, end - time.monotonic()))
        error = TimeoutError(f"not stored within {timeout_s:g} s when the program ended")
        for entry in self._buffer.held():
            self._outcomes.failed(entry, error)
        self._buffer.close()
        if self._worker is not None:
            self._worker.join(max(0.0, end - time.monotonic()))
        atexit.unregister(self._at_exit)

    def _seconds_to_rescue(self, timeout_s: float) -> float:
        many = sum(entry.spool is not None for entry in self._buffer.held())
        return min(timeout_s / 2, 0.25 + many * _RESCUE_SECONDS) if many else 0.0

    def _rescue(self, end: float) -> None:
        """Let what waits in memory wait in the spool, as far as the time goes."""
        tried: set[int] = set()
        while time.monotonic() < end:
            waiting = [entry for entry in self._buffer.held() if entry.spool is not None and entry.number not in tried]
            ready = [entry for entry in waiting[:_MOST_AT_ONCE] if self._outcomes.prepare(entry)]
            if not waiting:
                return
            if not ready:
                time.sleep(_BREATH_SECONDS)  # the worker prepares them just now
            tried.update(entry.number for entry in ready)
            self._outcomes.keep(ready, max(0.0, end - time.monotonic()))

    def _store(self, entry: Entry, *, is_durable: bool = False) -> None:
        if not self._outcomes.prepare(entry):
            return
        try:
            self._write(Batch(entry.trace.destination, [entry]))
        except StoreAwayError as error:
            self._later(entry, error, is_durable=is_durable)
        except Exception as error:  # noqa: BLE001  (refused, or what cannot even be sent; the program goes on)
            self._outcomes.refused([entry], error)
        else:
            self._outcomes.stored([entry])

    def _later(self, entry: Entry, error: Exception, *, is_durable: bool) -> None:
        if self._is_closed:
            if not self._outcomes.keep([entry]):
                self._outcomes.failed(entry, error)
            return
        if is_durable:
            self._spools.write_ahead(entry)
        self._buffer.wait_again(entry)
        self._start()

    def _start(self) -> None:
        if self._worker is not None:
            return
        with self._lock:
            if self._worker is not None:
                return
            worker = Worker(self._buffer, self._delivery, self._outcomes, self._spools)
            try:
                worker.start()
            except RuntimeError:  # no more threads, or the interpreter is ending
                self._is_closed = True
            else:
                self._worker = worker
                atexit.register(self._at_exit)
                FORKS.at_end_of_child(self._at_exit)
                return
        for entry in self._buffer.take(NEVER):
            self._store(entry)

    def _at_exit(self) -> None:
        self.close(self.exit_timeout_s)


_EXPORTERS: weakref.WeakSet[Exporter] = weakref.WeakSet()


def _at_fork(step: str) -> Callable[[], None]:
    def at_fork() -> None:
        for exporter in _EXPORTERS:
            getattr(exporter, step)()

    return at_fork


if hasattr(os, "register_at_fork"):  # pragma: no branch  (Windows has no fork)
    os.register_at_fork(
        before=_at_fork("before_fork"),
        after_in_parent=_at_fork("after_fork_in_parent"),
        after_in_child=_at_fork("after_fork_in_child"),
    )

EXPORTER = Exporter()
"""The exporter of this process."""

FLUSHED_WITH_MLFLOW = internals.FlushedWithMlflow(EXPORTER.flush)
"""What makes MLflow's own flushes wait for the exporter; MLflow holds it by a weak reference."""
