"""The worker: one thread that takes traces from the buffer, and delivers them in batches."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence

from dspy_mlflow_callbacks.export.batch import Batch, Entry
from dspy_mlflow_callbacks.export.buffer import NEVER, Buffer
from dspy_mlflow_callbacks.export.delivery import Delivery
from dspy_mlflow_callbacks.export.lanes import MOST_TRACES, Lanes
from dspy_mlflow_callbacks.export.outcomes import Outcomes
from dspy_mlflow_callbacks.export.pace import Work
from dspy_mlflow_callbacks.export.packing import pack
from dspy_mlflow_callbacks.export.redelivery import Redelivery
from dspy_mlflow_callbacks.export.sending import Sender
from dspy_mlflow_callbacks.export.spool.spools import Spools
from dspy_mlflow_callbacks.export.waiting import Destination

_MOST_SPANS = 500
_MOST_BYTES = 1_000_000

# Under a load that does not end, what waits in spools has its turn now and then.
_REDELIVERS_AFTER_SECONDS = 1.0


class Worker:
    """Delivers what is in a buffer, from a thread of its own.

    Args:
        buffer: Where the traces are.
        delivery: Stores batches.
        outcomes: Hear what became of each trace.
        spools: Where the traces of stores that are away wait.
    """

    def __init__(self, buffer: Buffer, delivery: Delivery, outcomes: Outcomes, spools: Spools) -> None:
        self._buffer = buffer
        self._delivery = delivery
        self._outcomes = outcomes
        self._lanes = Lanes()
        self._sender = Sender(delivery, self._lanes)
        self._redelivery = Redelivery(spools, self._sender, self._lanes, outcomes.away)
        self._redelivered_at = time.monotonic()
        self._is_idle = threading.Event()
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

    def wait_until_idle(self, timeout_s: float) -> None:
        """Wait until nothing can be done but to wait, for spooled traces as well."""
        self._is_idle.clear()
        self._buffer.nudge()
        self._is_idle.wait(timeout_s)

    def _run(self) -> None:
        try:
            while not self._buffer.is_closed:
                self._work()
        finally:
            self._delivery.close()

    def _work(self) -> None:
        self._is_idle.clear()
        taken = self._buffer.take(NEVER)
        self._lanes.add(self._packed(taken) if self._meets_calls else taken)
        self._spill()
        hurried = self._buffer.is_hurried
        found = self._lanes.next(hurried=hurried)
        if found is not None:
            self._work_on(*found)
            if time.monotonic() >= self._redelivered_at + _REDELIVERS_AFTER_SECONDS and not hurried:
                self._redeliver()
        elif not self._redeliver():
            self._wait()

    def _wait(self) -> None:
        hurried = self._buffer.is_hurried
        times = (
            self._lanes.due_in(hurried=hurried),
            self._redelivery.due_in(hurried=hurried),
            self._delivery.rest(),
        )
        self._is_idle.set()
        self._buffer.wait(1, min((each for each in times if each is not None), default=None), patiently=hurried)

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
                self._sender.send(batch, self)
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

    def _redeliver(self) -> bool:
        """Send a batch of what waits in spools; return whether there was one."""
        self._redelivered_at = time.monotonic()
        hurried = self._buffer.is_hurried or self._buffer.is_ending
        with Work(self._buffer) as work:
            batch = self._redelivery.deliver(hurried=hurried)
        if batch is None:
            return False
        self._meets_calls = work.met_calls
        self._delivery.pace(batch.destination).rest(self._buffer, work, len(batch), len(self._lanes))
        return True

    def _spill(self) -> None:
        """Let the traces of stores that are away wait in their spools, but where somebody waits for them."""
        if self._buffer.is_hurried and not self._buffer.is_ending:
            return
        for destination, lane in self._lanes.away():
            staying = [entry for entry in lane if entry.spool is None]
            ready = [entry for entry in lane if entry.spool is not None and self._outcomes.prepare(entry)]
            kept = set(map(id, self._outcomes.keep(ready)))
            self._lanes.replace(destination, [*staying, *(entry for entry in ready if id(entry) not in kept)])

    # What the sender tells.

    def stored(self, entries: Sequence[Entry]) -> None:
        """Hear that traces are stored."""
        self._outcomes.stored(entries)

    def refused(self, entries: Sequence[Entry], error: Exception) -> None:
        """Hear that traces will not be stored."""
        self._outcomes.refused(entries, error)

    def away(self, entries: Sequence[Entry], error: Exception) -> None:
        """Hear that a store does not take these now."""
        self._outcomes.away(entries, error)

    def put_back(self, batch: Batch) -> None:
        """Take traces back."""
        self._lanes.put_back(batch.destination, batch.entries)

    def put_last(self, entry: Entry) -> None:
        """Take a trace back that may be the reason."""
        self._lanes.add([entry])
