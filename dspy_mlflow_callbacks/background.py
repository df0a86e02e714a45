"""Work that may block for minutes, done in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextvars import copy_context
from typing import Generic, TypeVar

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
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._attempt: _Attempt[Found] | None = None

    def __call__(self, uri: str, find: Callable[[], Found]) -> Found:
        """Return what *find* returns.

        Args:
            uri: The store; another one is another search.
            find: May block.

        Raises:
            StoreUnavailableError: if it was not found in time; another error if the attempt failed.
        """
        attempt = self._attempt
        if attempt is None or attempt.uri != uri or attempt.failed_at_once:
            attempt = _Attempt(uri, find, self._seconds)
        elif attempt.is_outdated:  # pragma: no cover  (a minute later)
            attempt = _Attempt(uri, find, seconds=0.0)
        self._attempt = attempt
        found = attempt.result()
        self._attempt = None
        return found


class _Attempt(Generic[Found]):
    def __init__(self, uri: str, find: Callable[[], Found], seconds: float) -> None:
        self.uri = uri
        self.failed_at_once = False  # such as by a wrong setting, which may be mended meanwhile
        self._find = find
        self._began = time.monotonic()
        self._waits_until = self._began + seconds
        self._future: Future[Found] = Future()
        threading.Thread(target=copy_context().run, args=(self._run,), name="dspy-mlflow-store", daemon=True).start()

    @property
    def is_outdated(self) -> bool:
        """Whether the attempt failed a while ago: then another one is worth it."""
        return self._future.done() and time.monotonic() > self._began + _AGAIN_SECONDS

    def result(self) -> Found:
        try:
            return self._future.result(max(0.0, self._waits_until - time.monotonic()))
        except FutureTimeoutError as error:
            message = f"MLflow has not opened its store after {STORE_SECONDS:.0f} s: traces are not stored"
            raise StoreUnavailableError(message) from error

    def _run(self) -> None:
        try:
            self._future.set_result(self._find())
        except Exception as error:  # noqa: BLE001  (handed to who waits)
            self.failed_at_once = time.monotonic() < self._began + _FAILS_AT_ONCE_SECONDS
            self._future.set_exception(error)
