"""The lock with which a damaged spool is set aside while nobody writes to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # pragma: no cover  (Windows: there a file that is open cannot be set aside anyway)
    fcntl = None  # type: ignore[assignment]

FILE = "spool.lock"


class Guard:
    """A lock on the folder between processes: many write to the database, or one sets it aside.

    Args:
        folder: The spool's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        self._descriptor: int | None = None

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold it as one of many."""
        with self._held(exclusive=False):
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold it alone."""
        with self._held(exclusive=True):
            yield

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @contextmanager
    def _held(self, *, exclusive: bool) -> Iterator[None]:
        if fcntl is None:  # pragma: no cover  (Windows)
            yield
            return
        if self._descriptor is None:
            self._descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        try:
            yield
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
