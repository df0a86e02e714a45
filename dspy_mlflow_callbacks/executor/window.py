"""The inputs that are under way: as many at once as there are workers, and their outcomes in order."""

from __future__ import annotations

import functools
import threading
import time
from collections import deque
from concurrent.futures import BrokenExecutor, Future
from typing import Any

import attrs

from dspy_mlflow_callbacks.executor.outcome import Call, Outcome, late
from dspy_mlflow_callbacks.executor.places import Place

# On Windows Ctrl+C is not heard while a thread waits for a lock.
_INTERRUPTIBLE_S = 0.5


@attrs.define(eq=False)
class Slot:
    """An input under way.

    Attributes:
        index: Its place among the inputs, from 0 on.
        inputs: What was given.
        call: What the program is called with.
        outcome: What came of it; None until then.
        began: When its work began, by the monotonic clock.
    """

    index: int
    inputs: Any = attrs.field(repr=False)
    call: Call = attrs.field(repr=False)
    outcome: Outcome | None = attrs.field(default=None, repr=False)
    began: float = 0.0

    @property
    def exit(self) -> BaseException | None:
        """What its worker raised that ends programs, such as `SystemExit`; None where it did not."""
        error = None if self.outcome is None else self.outcome.error
        return None if isinstance(error, Exception) else error


class Window:
    """Hands inputs to a place, from a thread of its own, so that workers do not wait for the consumer.

    Args:
        place: Where the work is done.
        max_workers: How many inputs are worked on at once.
        retries: How many times the work on an input whose worker died begins again.
        timeout: Seconds after which an input is given up while its worker goes on; None for no limit.

    Attributes:
        has_stuck: Whether the place has a worker that goes on with an input that was given up.
    """

    def __init__(self, place: Place, *, max_workers: int, retries: int, timeout: float | None) -> None:
        self._place = place
        self._max_workers = max_workers
        self._retries = retries
        self._timeout = timeout
        self._changed = threading.Condition()
        self._slots: deque[Slot] = deque()
        self._waiting: deque[Slot] = deque()
        self._running: set[Slot] = set()
        self.has_stuck = False
        self._is_closing = False
        self._thread = threading.Thread(target=self._hand_on, name="dspy-mlflow-run", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._slots)

    def add(self, slot: Slot) -> None:
        """Take an input after those that are there."""
        with self._changed:
            self._slots.append(slot)
            if slot.outcome is None:
                self._waiting.append(slot)
                self._changed.notify_all()

    def next(self) -> Slot:
        """Wait for the first input's outcome, and let go of it."""
        with self._changed:
            self.wait()
            return self._slots.popleft()

    def wait(self) -> None:
        """Wait for the first input's outcome, if there is an input."""
        with self._changed:
            while self._slots and self._slots[0].outcome is None:
                self._changed.wait(_INTERRUPTIBLE_S)

    def stop(self) -> list[Slot]:
        """Begin no more work, wait for what is running, and return what is done."""
        self.close()
        with self._changed:
            while self._running:
                self._changed.wait(_INTERRUPTIBLE_S)
        return self.done()

    def done(self) -> list[Slot]:
        """Let go of all inputs, and return those that have an outcome."""
        with self._changed:
            done = [slot for slot in self._slots if slot.outcome is not None]
            self._slots.clear()
            return done

    def close(self) -> None:
        """Begin no more work."""
        with self._changed:
            self._is_closing = True
            self._waiting.clear()
            self._changed.notify_all()

    def join(self) -> None:
        """Wait until its thread has ended: closed, it does when nothing is running any more."""
        self._thread.join()

    def _hand_on(self) -> None:
        while (slot := self._next_to_begin()) is not None:
            self._begin(slot)

    def _begin(self, slot: Slot) -> None:
        try:
            future = self._submitted(slot)
        except Exception as error:  # noqa: BLE001  (the engine's: it is the input's)
            self._end(slot, Outcome(error=error))
        else:
            future.add_done_callback(functools.partial(self._ended, slot))

    def _next_to_begin(self) -> Slot | None:
        """Wait until there is an input to begin; None when there will be none any more."""
        with self._changed:
            while True:
                self._give_up_late()
                if self._is_closing and not self._running:
                    return None
                if self._waiting and len(self._running) < self._max_workers:
                    slot = self._waiting.popleft()
                    slot.began = time.monotonic()
                    self._running.add(slot)
                    return slot
                self._changed.wait(self._until_late())

    def _submitted(self, slot: Slot) -> Future[Any]:
        if self.has_stuck:
            self.has_stuck = False
            self._place.renew()
        try:
            return self._place.submit(slot.call)
        except BrokenExecutor:
            self._place.renew()
            return self._place.submit(slot.call)

    def _ended(self, slot: Slot, future: Future[Any]) -> None:
        if future.cancelled() and self._is_closing:
            self._end(slot, None)
            return
        error = future.exception() if not future.cancelled() else None
        if isinstance(error, BrokenExecutor) and slot.call.first_attempt <= self._retries:
            self._begin_again(slot)
            return
        try:
            outcome = self._place.outcome(future)
        except BaseException as failure:  # noqa: BLE001  (whatever the engine has in place of an outcome)
            outcome = Outcome(error=failure, attempts=slot.call.first_attempt)
        self._end(slot, outcome)

    def _end(self, slot: Slot, outcome: Outcome | None) -> None:
        with self._changed:
            if slot in self._running:  # else it was given up
                self._running.discard(slot)
                slot.outcome = outcome
                self._changed.notify_all()

    def _begin_again(self, slot: Slot) -> None:
        """Let an input whose worker died begin with its next attempt."""
        with self._changed:
            self._running.discard(slot)
            slot.call.first_attempt += 1
            if not self._is_closing:
                self._waiting.appendleft(slot)
            self._changed.notify_all()

    def _until_late(self) -> float | None:
        """Return the seconds until the first running input is late; None if none ever is."""
        if self._timeout is None or not self._running:
            return None
        return max(0.0, min(slot.began for slot in self._running) + self._timeout - time.monotonic())

    def _give_up_late(self) -> None:
        if self._timeout is None:
            return
        for slot in [slot for slot in self._running if slot.began + self._timeout <= time.monotonic()]:
            self._running.discard(slot)
            self.has_stuck = True
            slot.outcome = late(slot.call, self._timeout, time.monotonic() - slot.began)
            self._changed.notify_all()
