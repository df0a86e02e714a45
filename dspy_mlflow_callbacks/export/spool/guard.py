"""Locks between the processes of a spool, beside SQLite's own: a file is made by one, and set aside by one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # pragma: no cover  (Windows: there a file that is open cannot be set aside anyway)
    fcntl = None  # type: ignore[assignment]

from dspy_mlflow_callbacks.export.spool.errors import SpoolError

_BREATH_SECONDS = 0.001


class Guard:
    """A lock that many processes hold at once, or one alone.

    Args:
        file: What is locked; made if it is not there.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._descriptor: int | None = None

    @contextmanager
    def shared(self, timeout_s: float) -> Iterator[None]:
        """Hold it as one of many; raise `SpoolError` if that takes too long."""
        with self._held("LOCK_SH", timeout_s):
            yield

    @contextmanager
    def alone(self, timeout_s: float) -> Iterator[None]:
        """Hold it alone; raise `SpoolError` if that takes too long."""
        with self._held("LOCK_EX", timeout_s):
            yield

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @contextmanager
    def _held(self, kind: str, timeout_s: float) -> Iterator[None]:
        if fcntl is None:  # pragma: no cover  (Windows)
            yield
            return
        if self._descriptor is None:
            self._descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        _lock(self._descriptor, getattr(fcntl, kind), timeout_s)
        try:
            yield
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)


def _lock(descriptor: int, kind: int, timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:  # noqa: PERF203  (somebody has it: that is what the loop is for)
            if time.monotonic() >= end:
                message = f"another process has it for more than {timeout_s:g} s"
                raise SpoolError(message) from None
            time.sleep(_BREATH_SECONDS)
        else:
            return
