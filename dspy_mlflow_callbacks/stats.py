"""What a callback has counted, and what it has warned of."""

from __future__ import annotations

import logging
import threading

import attrs

logger = logging.getLogger("dspy_mlflow_callbacks")


@attrs.frozen(kw_only=True)
class Stats:
    """Counts of calls since the callback was made.

    Attributes:
        started: Spans opened.
        ended: Spans closed.
        dropped: Calls that a middleware, MLflow's sampling or a disabled tracing left out, with all below them.
        failed: Spans lost or left incomplete because a step or the engine failed.
        open: Calls of the process that have started and not ended.
    """

    started: int
    ended: int
    dropped: int
    failed: int
    open: int


class Counters:
    """The counts behind `Stats`; adding to one is safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(("started", "ended", "dropped", "failed"), 0)

    def add(self, name: str) -> None:
        """Count one more."""
        with self._lock:
            self._counts[name] += 1

    def stats(self, open_calls: int) -> Stats:
        """Return the counts of now."""
        with self._lock:
            return Stats(**self._counts, open=open_calls)


class WarnOnce:
    """Warns of each thing once, then stays quiet: a broken step would otherwise speak at every call."""

    def __init__(self) -> None:
        self._warned: set[object] = set()

    def __call__(self, subject: object, message: str, error: BaseException | None = None) -> None:
        """Log *message* with the traceback of *error*, unless *subject* was warned of before."""
        if subject in self._warned:
            return
        self._warned.add(subject)
        logger.warning(message, exc_info=error)
