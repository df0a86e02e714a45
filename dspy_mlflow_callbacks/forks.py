"""What a fork of the process finds: locks that nobody holds for ever, and objects that begin anew.

A fork has one thread. What another thread was in the middle of stays so in the fork, and whoever waits for it waits for
ever.
"""

from __future__ import annotations

import functools
import inspect
import multiprocessing
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from multiprocessing import util
from typing import Any

_WAIT_SECONDS = 1.0
_WAIT_FOR_THREADS_SECONDS = 5.0


class Forks:
    """Gets the process ready for a fork, and both processes going again.

    Attributes:
        wait_s: The most seconds that a fork waits for locks to be let go of.
        wait_for_threads_s: The most seconds that a fork waits for threads.
    """

    def __init__(self) -> None:
        self.wait_s = _WAIT_SECONDS
        self.wait_for_threads_s = _WAIT_FOR_THREADS_SECONDS
        self._locks: weakref.WeakSet[Any] = weakref.WeakSet()
        self._starting = threading.Lock()
        self._threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        self._beginnings: list[Callable[[], Callable[[], None] | None]] = []
        self._held: list[Any] = []
        self._at_end: set[Callable[[], None]] = set()
        if hasattr(os, "register_at_fork"):  # pragma: no branch  (Windows has no fork)
            os.register_at_fork(
                before=self._before, after_in_parent=self._after_in_parent, after_in_child=self._after_in_child
            )

    def lock(self) -> threading.Lock:
        """Return a lock that is free in a fork, with what it guards whole."""
        lock = threading.Lock()
        self._locks.add(lock)
        return lock

    def rlock(self) -> Any:
        """Return a lock that its holder may take again, and that is free in a fork."""
        lock = threading.RLock()
        self._locks.add(lock)
        return lock

    def begin_anew(self, function: Callable[[], None]) -> None:
        """Call a function in each fork; a bound method as long as its object lives."""
        for gone in [each for each in self._beginnings if each() is None]:
            with suppress(ValueError):  # another thread has taken it out just now
                self._beginnings.remove(gone)
        self._beginnings.append(_weakly(function) if inspect.ismethod(function) else lambda: function)

    def start(self, thread: threading.Thread) -> None:
        """Start a thread for whose end forks wait: till then it is in the middle of things."""
        with self._starting:
            thread.start()
            self._threads.add(thread)

    def at_end_of_child(self, function: Callable[[], None]) -> None:
        """Call a function, once, at the end of a process that `multiprocessing` started.

        One that was forked, or comes from its fork server, ends without what `atexit` knows.
        """
        if multiprocessing.parent_process() is not None and function not in self._at_end:
            self._at_end.add(function)
            util.Finalize(None, function, exitpriority=0)

    def _before(self) -> None:
        end = time.monotonic() + self.wait_for_threads_s
        self._held = hold([self._starting], self.wait_s)
        for thread in list(self._threads):
            if thread is not threading.current_thread():
                thread.join(max(0.0, end - time.monotonic()))
        self._held += hold(list(self._locks), self.wait_s)

    def _after_in_parent(self) -> None:
        for lock in self._held:
            lock.release()
        self._held = []

    def _after_in_child(self) -> None:
        free([self._starting, *self._locks])
        self._threads.clear()
        self._held = []
        self._at_end.clear()
        for weak in list(self._beginnings):
            begin = weak()
            if begin is not None:  # pragma: no branch  (else it goes right now)
                begin()


def hold(locks: Iterable[Any], wait_s: float) -> list[Any]:
    """Take locks, for *wait_s* seconds at most all together, and return those that were to be had."""
    end = time.monotonic() + wait_s
    return [lock for lock in locks if lock.acquire(timeout=max(0.0, end - time.monotonic()))]


def free(locks: Iterable[Any]) -> None:
    """Make locks free in a fork, whoever held them."""
    for lock in locks:
        with suppress(AttributeError):  # somebody else's kind of lock, such as gevent's
            lock._at_fork_reinit()  # noqa: SLF001  (as `logging` does with its own)


def _weakly(method: Any) -> Callable[[], Callable[[], None] | None]:
    """Return what returns a bound method as long as its object lives.

    `weakref.WeakMethod` prints an error where both go at the end of the interpreter.
    """
    owner, function = weakref.ref(method.__self__), method.__func__

    def living() -> Callable[[], None] | None:
        found = owner()
        return None if found is None else functools.partial(function, found)

    return living


FORKS = Forks()
"""That of this process."""
