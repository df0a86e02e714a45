"""The worker: one thread that takes traces from the buffer, and delivers them in batches."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator

from dspy_mlflow_callbacks.export.batch import Batch, Entry
from dspy_mlflow_callbacks.export.buffer import NEVER, Buffer
from dspy_mlflow_callbacks.export.delivery import Delivery
from dspy_mlflow_callbacks.export.errors import RefusedError, StoreAwayError
from dspy_mlflow_callbacks.export.lanes import MOST_TRACES, Lanes
from dspy_mlflow_callbacks.export.outcomes import Outcomes
from dspy_mlflow_callbacks.export.pace import Work
from dspy_mlflow_callbacks.export.packing import pack
from dspy_mlflow_callbacks.export.waiting import Destination

_MOST_SPANS = 500
_MOST_BYTES = 1_000_000
_MOST_REFUSALS = 5

# A server that restarts is not worth a word.
_FAILURES_UNTIL_SAID = 2


class Worker:
    """Delivers what is in a buffer, from a thread of its own.

    Args:
        buffer: Where the traces are.
        delivery: Stores batches.
        outcomes: Hear what became of each trace.
    """

    def __init__(self, buffer: Buffer, delivery: Delivery, outcomes: Outcomes) -> None:
        self._buffer = buffer
        self._delivery = delivery
        self._outcomes = outcomes
        self._lanes = Lanes()
        self._meets_calls = False
        self._thread = threading.Thread(target=self._run, name="dspy-mlflow-export", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def join(self, timeout_s: float) -> None:
        """Wait until the thread has ended, which it does when the buffer is closed."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            while not self._buffer.is_closed:
                self._work()
        finally:
            self._delivery.close()

    def _work(self) -> None:
        taken = self._buffer.take(NEVER)
        self._lanes.add(self._packed(taken) if self._meets_calls else taken)
        hurried = self._buffer.is_hurried
        found = self._lanes.next(hurried=hurried)
        if found is None:
            times = (self._lanes.due_in(hurried=hurried), self._delivery.rest())
            self._buffer.wait(1, min((each for each in times if each is not None), default=None), patiently=hurried)
        else:
            self._work_on(*found)

    def _packed(self, entries: list[Entry]) -> Iterator[Entry]:
        for entry in entries:
            time.sleep(0)  # the program's threads may run between two traces, not only after all of them
            if self._outcomes.prepare(entry):
                pack(entry, entry.trace.destination)
                yield entry

    def _work_on(self, destination: Destination, lane: deque[Entry]) -> None:
        self._delivery.note_backlog(destination, self._lanes.backlog(destination))
        pace = self._delivery.pace(destination)
        is_gentle = self._meets_calls and not self._buffer.is_hurried
        if is_gentle and pace.waits(self._buffer):
            with Work(self._buffer) as work:
                self._buffer.wait(NEVER, pace.waits_s)
            self._meets_calls = work.met_calls
            return
        with Work(self._buffer) as work:
            batch = self._next_batch(destination, lane, pace.most if is_gentle else MOST_TRACES)
            if batch.entries:
                self._send(batch)
        self._meets_calls = work.met_calls
        pace.rest(self._buffer, work, len(batch), len(self._lanes))

    def _next_batch(self, destination: Destination, lane: deque[Entry], most: int) -> Batch:
        entries: list[Entry] = []
        spans = size = 0
        most = min(most, self._lanes.route(destination).most)
        while lane and len(entries) < most and spans < _MOST_SPANS and size < _MOST_BYTES:
            entry = lane.popleft()
            time.sleep(0)  # the program's threads may run between two traces, not only after all of them
            if not self._outcomes.prepare(entry):
                continue
            if entries and entry.is_plain is not entries[0].is_plain:
                lane.appendleft(entry)
                break
            entries.append(entry)
            spans += entry.spans
            size += entry.size
        return Batch(destination, entries)

    def _send(self, batch: Batch) -> None:
        try:
            self._delivery.deliver(batch)
        except RefusedError as error:
            self._refused(batch, error)
        except StoreAwayError as error:
            self._away(batch, error)
        except Exception as error:  # noqa: BLE001  (what cannot even be sent; the worker goes on)
            self._refused(batch, RefusedError(repr(error)))
        else:
            self._lanes.route(batch.destination).succeed(len(batch))
            for entry in batch.entries:
                self._outcomes.stored(entry)

    def _refused(self, batch: Batch, error: RefusedError) -> None:
        if error.is_for_all or len(batch) == 1:
            for entry in batch.entries:
                self._outcomes.failed(entry, error)
        else:  # one bad trace does not take the others along
            for half in batch.halves():
                self._send(half)

    def _away(self, batch: Batch, error: StoreAwayError) -> None:
        route = self._lanes.route(batch.destination)
        route.fail()
        if route.failures >= _FAILURES_UNTIL_SAID:
            self._outcomes.away(batch.destination, error)
        if error.may_be_the_batch and len(batch) == 1:
            self._suspect(batch.entries[0], route.stored, error)
        else:
            if error.may_be_the_batch:
                route.most = len(batch) // 2
            self._lanes.put_back(batch.destination, batch.entries)

    def _suspect(self, entry: Entry, stored: int, error: StoreAwayError) -> None:
        # The store has failed over this trace alone. If it takes others, this one is the reason.
        if not entry.refusals:
            entry.stored_before = stored
        entry.refusals += 1
        if entry.refusals >= _MOST_REFUSALS and stored > entry.stored_before:
            self._outcomes.failed(entry, error)
        else:
            self._lanes.add([entry])
