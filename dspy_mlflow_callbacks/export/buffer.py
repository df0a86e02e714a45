"""The buffer: ended traces, in the order in which they ended, until they are stored or given up."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from dspy_mlflow_callbacks.export.batch import Entry
from dspy_mlflow_callbacks.export.waiting import Limits, Waiting

NEVER = 1 << 62

_BREATH_SECONDS = 0.001


class Buffer:
    """Holds whole traces, bounded in number and bytes.

    A trace counts from `put` to `leave`, whether it waits or is under way. One worker takes traces; any thread may put
    them, ask for room, or wait until they are gone.
    """

    def __init__(self) -> None:
        lock = threading.RLock()  # a signal's handler may end a trace while the same thread puts one
        self._lock = lock
        self._arrived = threading.Condition(lock)  # the worker listens
        self._left = threading.Condition(lock)  # who waits for room, or for what it has put to be gone
        self._waiting: deque[Entry] = deque()
        self._held: dict[int, Entry] = {}
        self._awaited = NEVER  # how many must wait before the worker is woken
        self._is_nudged = False
        self._in_a_hurry = 0
        self._limits = Limits()  # of the last trace
        self._had_enough = -1  # how many had left when somebody last waited for room in vain
        self.puts = 0
        self.leaves = 0
        self.size = 0
        self.is_ending = False  # the program does
        self.is_closed = False

    def __len__(self) -> int:
        return len(self._held)

    @property
    def is_hurried(self) -> bool:
        """Whether somebody waits until all is gone."""
        return self._in_a_hurry > 0

    def put(self, trace: Waiting, limits: Limits) -> bool:
        """Add a trace that waits for the worker; return False if there is no room for it."""
        size = trace.size
        with self._lock:
            self._limits = limits
            if not self._has_room(size, limits) and not self._get_room(size, limits):
                return False
            self._wait(self._hold(trace, size, limits))
        return True

    def hold(self, trace: Waiting, limits: Limits | None = None) -> Entry:
        """Add a trace that does not wait for the worker."""
        with self._lock:
            return self._hold(trace, trace.size, limits)

    def is_full(self, limits: Limits) -> bool:
        """Return whether there is more than *limits* allow."""
        with self._lock:
            return len(self._held) > limits.max_traces or self.size > limits.max_bytes

    def wait_again(self, entry: Entry) -> None:
        """Let a trace that is held wait for the worker."""
        with self._lock:
            self._wait(entry)

    def _hold(self, trace: Waiting, size: int, limits: Limits | None) -> Entry:
        spool = None if limits is None else limits.spool
        entry = self._held[self.puts] = Entry(self.puts, trace, size, spool=spool)
        self.puts += 1
        self.size += size
        return entry

    def _wait(self, entry: Entry) -> None:
        self._waiting.append(entry)
        if len(self._waiting) >= self._awaited:
            self._arrived.notify_all()

    @property
    def fill(self) -> float:
        """How full it is, from 0 to 1."""
        return max(len(self._held) / self._limits.max_traces, self.size / self._limits.max_bytes)

    def take(self, most: int) -> list[Entry]:
        """Take the traces that have waited longest; they count until they leave."""
        with self._lock:
            return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]

    def wait(self, awaited: int, timeout_s: float | None, *, patiently: bool = False) -> None:
        """Wait until *awaited* traces wait or the time is up; if not *patiently*, until somebody is in a hurry."""
        with self._lock:
            self._awaited = awaited
            self._arrived.wait_for(lambda: self._is_worth_waking(awaited, patiently=patiently), timeout_s)
            self._awaited = NEVER
            self._is_nudged = False

    def _is_worth_waking(self, awaited: int, *, patiently: bool) -> bool:
        if self.is_closed or self._is_nudged:
            return True
        return len(self._waiting) >= awaited or (self.is_hurried and not patiently)

    def nudge(self) -> None:
        """Wake the worker: there is something to do elsewhere."""
        with self._lock:
            self._is_nudged = True
            self._arrived.notify_all()

    def leave(self, entry: Entry) -> bool:
        """Let a trace go; return False if it is gone already."""
        with self._lock:
            if self._held.pop(entry.number, None) is None:
                return False
            self.size -= entry.size
            self.leaves += 1
            self._left.notify_all()
            return True

    def drain(self, timeout_s: float | None) -> bool:
        """Wait until all that was put before now has left; return whether it has, in time."""
        with self._lock:
            end = self.puts
            self._in_a_hurry += 1
            self._arrived.notify_all()
            try:
                return self._left.wait_for(lambda: next(iter(self._held), end) >= end, timeout_s)
            finally:
                self._in_a_hurry -= 1

    def held(self) -> list[Entry]:
        """Return all that is there."""
        with self._lock:
            return list(self._held.values())

    def end(self) -> None:
        """Hear that the program ends."""
        with self._lock:
            self.is_ending = True
            self._arrived.notify_all()

    def close(self) -> None:
        """Let nobody wait for what comes."""
        with self._lock:
            self.is_closed = True
            self._arrived.notify_all()

    def gets_room(self, limits: Limits) -> bool:
        """Wait until there is no more than *limits* allow, as long as they say; return whether there is."""
        with self._lock:
            return limits.on_full != "drop" and self._waits_for(lambda: not self.is_full(limits), limits)

    def _has_room(self, size: int, limits: Limits) -> bool:
        if not self._held:
            return True  # a trace larger than the buffer is in memory anyway
        return len(self._held) < limits.max_traces and self.size + size <= limits.max_bytes

    def _get_room(self, size: int, limits: Limits) -> bool:
        if limits.on_full == "drop":
            return False
        return self._waits_for(lambda: self._has_room(size, limits), limits)

    def _waits_for(self, has_room: Callable[[], bool], limits: Limits) -> bool:
        # Where nothing moves, one call has waited for all. The others still let go of the interpreter: a program that
        # calls without a pause would keep the worker from moving anything.
        at_most_s = _BREATH_SECONDS if self._had_enough == self.leaves else limits.max_block_s
        if self._left.wait_for(has_room, at_most_s):
            return True
        self._had_enough = self.leaves
        return False
