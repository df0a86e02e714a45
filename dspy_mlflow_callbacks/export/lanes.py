"""What the worker has taken: a lane for each destination, and how each store has answered lately."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from dspy_mlflow_callbacks.export.batch import Entry
from dspy_mlflow_callbacks.export.waiting import Destination

MOST_TRACES = 100
"""The most traces in a batch: what MLflow links to a run at once."""

_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 30.0
_HURRIED_PAUSE_SECONDS = 0.5
_MOST_DOUBLINGS = 10
_MOST_PATIENCE_SECONDS = 600.0
_LONG_PATIENCE_SECONDS = 5.0

FAILURES_UNTIL_OPEN = 3
"""After how many failures in a row a store is away: then it is asked with one trace, and the others wait elsewhere."""


class Route:
    """The way to one store: how it has answered, and when it is asked again (a circuit breaker).

    Closed, it takes what comes. A failure lets it rest; after three in a row it is open, and what comes may go to the
    spool. When a rest is over it is half open: one trace asks, and more follow as they are taken.

    Args:
        clock: Tells the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._asked_at = 0.0
        self._pause = 0.0
        self._patience = 0.0  # what the store itself has asked for
        self.failures = 0
        self.stored = 0
        self.most = MOST_TRACES

    def succeed(self, traces: int) -> None:
        """Note that the store has taken a batch."""
        self.failures, self._pause, self._patience = 0, 0.0, 0.0
        self.stored += traces
        self.most = min(MOST_TRACES, self.most * 2)

    @property
    def is_open(self) -> bool:
        """Whether the store is away, and not only for a moment."""
        return self.failures >= FAILURES_UNTIL_OPEN or self._patience >= _LONG_PATIENCE_SECONDS

    def fail(self, retry_after_s: float = 0.0) -> None:
        """Note that the store is away: each time it is left alone for twice as long, less a random part.

        Args:
            retry_after_s: For how many seconds it asks to be left alone.
        """
        self._patience = min(retry_after_s, _MOST_PATIENCE_SECONDS)
        longest = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** min(self.failures, _MOST_DOUBLINGS))
        self._pause = longest * random.uniform(0.5, 1.0)  # noqa: S311  (so that many programs do not come at once)
        self.failures += 1
        if self.is_open:
            self.most = 1
        self._asked_at = self._clock()

    def due_in(self, *, hurried: bool) -> float:
        """Return in how many seconds it is asked again."""
        pause = min(self._pause, _HURRIED_PAUSE_SECONDS) if hurried else self._pause
        return self._asked_at + max(pause, self._patience) - self._clock()


class Lanes:
    """The traces that the worker has taken, by destination: those of a store that is away hold up no others."""

    def __init__(self) -> None:
        self._lanes: dict[Destination, deque[Entry]] = {}
        self._routes: dict[str, Route] = {}

    def __len__(self) -> int:
        return sum(map(len, self._lanes.values()))

    def add(self, entries: Iterable[Entry]) -> None:
        """Let traces join the lanes of their destinations."""
        for entry in entries:
            self._lanes.setdefault(entry.trace.destination, deque()).append(entry)

    def backlog(self, destination: Destination) -> int:
        """Return how many traces there are for the store of a destination."""
        uri = destination.tracking_uri
        return sum(len(lane) for each, lane in self._lanes.items() if each.tracking_uri == uri)

    def route(self, destination: Destination) -> Route:
        """Return the way to the store of a destination."""
        return self._routes.setdefault(destination.tracking_uri, Route())

    def put_back(self, destination: Destination, entries: Iterable[Entry]) -> None:
        """Let traces be the first of their lane again."""
        self._lanes.setdefault(destination, deque()).extendleft(reversed(list(entries)))

    def replace(self, destination: Destination, entries: Iterable[Entry]) -> None:
        """Let these be all traces of a lane."""
        self._lanes[destination] = deque(entries)

    def next(self, *, hurried: bool) -> tuple[Destination, deque[Entry]] | None:
        """Return a lane whose store may be asked, each in its turn; None if there is none."""
        for destination, lane in list(self._lanes.items()):
            if not lane:
                del self._lanes[destination]
            elif self.route(destination).due_in(hurried=hurried) <= 0:
                self._lanes[destination] = self._lanes.pop(destination)
                return destination, lane
        return None

    def away(self) -> Iterator[tuple[Destination, deque[Entry]]]:
        """Yield the lanes of stores that are away."""
        for destination, lane in list(self._lanes.items()):
            if lane and self.route(destination).is_open:
                yield destination, lane

    def due_in(self, *, hurried: bool) -> float | None:
        """Return in how many seconds there is a lane whose store may be asked; None if all are empty."""
        times = [self.route(each).due_in(hurried=hurried) for each, lane in self._lanes.items() if lane]
        return max(0.0, min(times)) if times else None
