"""What a callback has counted, and what it has warned of."""

from __future__ import annotations

import functools
import itertools
import logging
import re
from collections.abc import Callable

import attrs

from dspy_mlflow_callbacks.forks import FORKS

logger = logging.getLogger("dspy_mlflow_callbacks")

_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]*@")


@attrs.frozen(kw_only=True)
class Stats:
    """Counts of calls since the callback was made.

    Attributes:
        started: Spans opened.
        ended: Spans closed.
        dropped: Calls that a middleware, MLflow's sampling or a disabled tracing left out; what is below them is left
            out too and not counted. And ended traces that a tail sampler left out.
        abandoned: Calls that were closed as errors because their end had not come: when their trace ended, or after
            `max_silent_s`. They count as ended too.
        failed: How often a step or the engine failed: it cost a span or a payload, or a tail sampler's trace was kept.
        stored: Traces that this package has stored itself. Those of the native engine are stored by MLflow, which does
            not tell.
        lost: Traces that ended and are not stored: there was no room for them while the store was away, or it refused
            them.
        spooled: Traces that left for the spool, since their store was away: whichever process finds them there
            delivers them, and they do not count as `stored` here.
        dead_lettered: Of the lost ones, those that the spool keeps with the reason why their store refused them.
        open: Calls of the process that have started and not ended.
        queued: Traces of the process that have ended and wait to be stored.
        bytes: Roughly how many bytes these hold.
    """

    started: int
    ended: int
    dropped: int
    abandoned: int
    failed: int
    stored: int
    lost: int
    spooled: int
    dead_lettered: int
    open: int
    queued: int
    bytes: int


class _Count:
    """A number that any thread may add one to without a lock: a step of `itertools.count` is one operation."""

    def __init__(self) -> None:
        steps = itertools.count()
        self.add: Callable[[], int] = functools.partial(next, steps)
        self._readings = 0
        self._lock = FORKS.lock()

    def value(self) -> int:
        """Return how often `add` was called; to read is a step too, which is taken off."""
        with self._lock:
            value = self.add() - self._readings
            self._readings += 1
            return value

    def restart(self) -> None:
        """Count from 0 again."""
        value = self.value()  # which changes what is added to
        self._readings += value


_COUNTED = ("started", "ended", "dropped", "abandoned", "failed", "stored", "lost", "spooled", "dead_lettered")


class Counters:
    """The counts behind `Stats`; adding to one is safe from any thread."""

    def __init__(self) -> None:
        self._counts = {name: _Count() for name in _COUNTED}
        add = {name: count.add for name, count in self._counts.items()}
        self.started, self.ended, self.dropped, self.abandoned = (add[name] for name in _COUNTED[:4])
        self.failed, self.stored, self.lost, self.spooled, self.dead_lettered = (add[name] for name in _COUNTED[4:])
        """Each counts one more."""
        FORKS.begin_anew(self._restart)

    def _restart(self) -> None:
        for count in self._counts.values():
            count.restart()  # what the parent has counted is the parent's

    def readers(self) -> dict[str, Callable[[], int]]:
        """Return what reads each count, by its name; they do not hold these counters."""
        return {name: count.value for name, count in self._counts.items()}

    def stats(self, **of_process: int) -> Stats:
        """Return the counts of now, with those *of_process*: `open`, `queued` and `bytes`."""
        return Stats(**{name: count.value() for name, count in self._counts.items()}, **of_process)


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


class WarnNotStored(WarnOnce):
    """Warns once for each store that traces do not arrive there."""

    _MAX_REASON_CHARACTERS = 300

    def store(self, uri: str, reason: str, *, may_wait: bool = False) -> None:
        """Say that traces are not stored in *uri*, and why; credentials are left out.

        Args:
            uri: The store.
            reason: What it says.
            may_wait: Whether they are kept in a spool meanwhile.
        """
        first = without_credentials(reason).strip().partition("\n")[0][: self._MAX_REASON_CHARACTERS]
        rest = "They are kept in the spool." if may_wait else "The program goes on without them."
        self(uri, f"Traces are not stored in {without_credentials(uri)}: {first}. {rest}")


def without_credentials(text: str) -> str:
    """Return a text without the user names and passwords of its URIs."""
    return _CREDENTIALS.sub("", text)
