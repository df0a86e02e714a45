"""Work that may block for minutes, done in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextvars import copy_context
from types import TracebackType
from typing import Generic, TypeVar

from dspy_mlflow_callbacks.forks import FORKS

Found = TypeVar("Found")

STORE_SECONDS = 15.0
"""How long a call may wait for MLflow to open its store; a new SQLite database takes 1 to 4 s."""

_AGAIN_SECONDS = 60.0
_FAILS_AT_ONCE_SECONDS = 1.0


class StoreUnavailableError(Exception):
    """MLflow cannot open its store, or not in time."""


class Search(Generic[Found]):
    """Finds something in a store, in a thread of its own; who asks for it waits *seconds* at most, all together.

    An attempt that failed slowly is made again after a minute, and then holds nobody up.

    Args:
        seconds: How long one attempt may hold up who asks.
        again: After how many seconds an attempt that failed at once is made again.
        clock: Tells the time in seconds.
    """

    def __init__(self, seconds: float, *, again: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._again = again
        self._clock = clock
        self._attempt: _Attempt[Found] | None = None
        FORKS.begin_anew(self._begin_anew)

    def _begin_anew(self) -> None:
        self._attempt = None  # its thread is not in a fork

    def __call__(self, uri: str, find: Callable[[], Found]) -> Found:
        """Return what *find* returns.

        Args:
            uri: The store, and what else the answer hangs on: another one is another search.
            find: May block.

        Raises:
            StoreUnavailableError: if it was not found in time; another error if the attempt failed.
        """
        attempt = self._attempt
        if attempt is None or attempt.uri != uri:
            attempt = _Attempt(uri, find, self._seconds, self._clock)
        elif attempt.failed_at_once:
            if attempt.age >= self._again:
                attempt = _Attempt(uri, find, self._seconds, self._clock)
        elif attempt.is_outdated:
            attempt = _Attempt(uri, find, 0.0, self._clock)
        self._attempt = attempt
        found = attempt.result()
        self._attempt = None
        return found


class _Attempt(Generic[Found]):
    def __init__(self, uri: str, find: Callable[[], Found], seconds: float, clock: Callable[[], float]) -> None:
        self.uri = uri
        self.failed_at_once = False  # such as by a wrong setting, which may be mended meanwhile
        self._find = find
        self._clock = clock
        self._began = clock()
        self._waits_until = self._began + seconds
        self._future: Future[Found] = Future()
        self._traceback: TracebackType | None = None
        thread = threading.Thread(target=copy_context().run, args=(self._run,), name="dspy-mlflow-store", daemon=True)
        FORKS.start(thread)  # a fork would find a store that is half open, and modules that are half imported

    @property
    def age(self) -> float:
        """How many seconds ago the attempt began."""
        return self._clock() - self._began

    @property
    def is_outdated(self) -> bool:
        """Whether the attempt failed a while ago: then another one is worth it."""
        return self._future.done() and self.age > _AGAIN_SECONDS

    def result(self) -> Found:
        try:
            error = self._future.exception(max(0.0, self._waits_until - self._clock()))
        except FutureTimeoutError as waited:
            message = "MLflow has not opened its store in time: traces are not stored"
            raise StoreUnavailableError(message) from waited
        if error is not None:
            # One error for all who ask: each would leave its frames on it.
            raise error.with_traceback(self._traceback)
        return self._future.result()

    def _run(self) -> None:
        try:
            self._future.set_result(self._find())
        except Exception as error:  # noqa: BLE001  (handed to who waits)
            self.failed_at_once = self._clock() < self._began + _FAILS_AT_ONCE_SECONDS
            self._traceback = error.__traceback__
            self._future.set_exception(error)
