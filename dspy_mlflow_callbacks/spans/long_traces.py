"""Traces that run for minutes or hours are looked after from a thread: what is due is done while they go on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Protocol

from dspy_mlflow_callbacks.forks import FORKS
from dspy_mlflow_callbacks.stats import WarnOnce

_CHECKS_A_LIMIT = 4
"""How often a trace is looked at within the time after which something is due."""


class Long(Protocol):
    """A trace that is open, and knows what is to be done about it, and after how long."""

    def look(self) -> None:
        """Do what is due."""
        ...


class LongTraces:
    """Looks after traces that are open for long, from a thread of its own that starts with the first trace.

    Args:
        open_traces: Returns the traces that are open.
    """

    def __init__(self, open_traces: Callable[[], Iterable[Long]]) -> None:
        self._open_traces = open_traces
        self._warn = WarnOnce()
        self._begin()
        FORKS.begin_anew(self._begin)

    def _begin(self) -> None:
        # After a fork too: the thread is not here.
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._limit_s = float("inf")

    def watch(self, limit_s: float) -> None:
        """Look at open traces often enough for one about which something is due after *limit_s* seconds."""
        if limit_s < self._limit_s:
            with self._lock:
                is_running, self._limit_s = self._limit_s < float("inf"), min(limit_s, self._limit_s)
            self._wake.set()
            if not is_running:
                with suppress(RuntimeError):  # the interpreter is ending, and nothing will be open for long
                    threading.Thread(target=self._run, name="dspy-mlflow-open-traces", daemon=True).start()

    def _run(self) -> None:
        while True:
            if self._wake.wait(self._limit_s / _CHECKS_A_LIMIT):
                self._wake.clear()
            for trace in self._open_traces():
                self._look_at(trace)

    def _look_at(self, trace: Long) -> None:
        try:
            trace.look()
        except Exception as error:  # noqa: BLE001  (the thread goes on)
            message = f"A trace that is open for long could not be stored so far, or given up: {error!r}"
            self._warn(type(error), message, error)
