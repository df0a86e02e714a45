"""Workers that an engine may end at any time: what a task has made is stored before the task is over."""

from __future__ import annotations

import threading
import time

from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.export.exporter import EXPORTER, Exporter
from dspy_mlflow_callbacks.stats import WarnOnce

_TIMEOUT_S = 10.0
_RESTS_S = 60.0


class Drain:
    """Waits until what has ended in this process is stored, and for a store that is away only now and then.

    Args:
        timeout_s: The most seconds that a task is held up.
        rests_s: For how many seconds no task is held up any more by a store that did not take traces in time.
        exporter: Delivers them.
    """

    def __init__(self, timeout_s: float = _TIMEOUT_S, rests_s: float = _RESTS_S, exporter: Exporter = EXPORTER) -> None:
        self.timeout_s = timeout_s
        self.rests_s = rests_s
        self._exporter = exporter
        self._lock = threading.Lock()
        self._warn = WarnOnce()
        self._next = 0.0

    def __call__(self) -> bool:
        """Wait; return whether all is stored."""
        if time.monotonic() < self._next:
            return False
        end = time.monotonic() + self.timeout_s
        if self._exporter.flush(self.timeout_s) and internals.exported(end - time.monotonic()):
            return True
        self._next = time.monotonic() + self.rests_s
        said = f"Traces of a task are not stored after {self.timeout_s:g} s; those that follow do not wait for it."
        self._warn("away", said)
        return False


DRAIN = Drain()
"""That of this process."""
