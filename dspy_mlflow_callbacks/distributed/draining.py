"""Workers that an engine may end at any time: what a task has made is stored before the task is over."""

from __future__ import annotations

import time

from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.export.exporter import EXPORTER, Exporter
from dspy_mlflow_callbacks.stats import WarnOnce


class Drain:
    """Waits until what has ended in this process is stored, and hardly for a store that is away.

    Args:
        timeout_s: The most seconds that a task is held up.
        away_s: The most seconds while the store has not yet taken what it was given before.
        exporter: Delivers it.
    """

    def __init__(self, timeout_s: float = 10.0, away_s: float = 0.25, exporter: Exporter = EXPORTER) -> None:
        self.timeout_s = timeout_s
        self.away_s = away_s
        self._exporter = exporter
        self._warn = WarnOnce()
        self._is_away = False

    def __call__(self) -> bool:
        """Wait; return whether all is stored."""
        timeout_s = self.away_s if self._is_away else self.timeout_s
        end = time.monotonic() + timeout_s
        is_stored = self._exporter.flush(timeout_s) and internals.exported(end - time.monotonic())
        self._is_away = not is_stored
        if self._is_away:
            said = f"Traces of a task are not stored after {self.timeout_s:g} s; those that follow hardly wait for it."
            self._warn("away", said)
        return is_stored


DRAIN = Drain()
"""That of this process."""
