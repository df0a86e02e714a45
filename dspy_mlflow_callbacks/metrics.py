"""The counters as OpenTelemetry metrics, for who has a meter provider: through the API, which without one does nothing.

Names and units are those of https://opentelemetry.io/docs/specs/semconv/general/metrics/. An exporter is the
program's.
"""

from __future__ import annotations

import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable

import attrs
from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from dspy_mlflow_callbacks.export.exporter import EXPORTER
from dspy_mlflow_callbacks.forks import FORKS
from dspy_mlflow_callbacks.spans.open_spans import OPEN_SPANS
from dspy_mlflow_callbacks.stats import Counters

Readers = dict[str, Callable[[], int]]

_SCOPE = "dspy_mlflow_callbacks"


@attrs.frozen
class _Instrument:
    name: str
    unit: str
    description: str


COUNTERS = {
    "started": _Instrument("dspy_mlflow.spans.started", "{span}", "Spans opened."),
    "ended": _Instrument("dspy_mlflow.spans.ended", "{span}", "Spans closed."),
    "dropped": _Instrument("dspy_mlflow.spans.dropped", "{span}", "Calls left out by sampling, a filter or a scope."),
    "abandoned": _Instrument("dspy_mlflow.spans.abandoned", "{span}", "Spans closed because their calls never ended."),
    "failed": _Instrument("dspy_mlflow.spans.failed", "{span}", "Spans or payloads that a failing step cost."),
    "stored": _Instrument("dspy_mlflow.traces.stored", "{trace}", "Traces stored."),
    "lost": _Instrument("dspy_mlflow.traces.lost", "{trace}", "Ended traces that are not and will not be stored."),
    "spooled": _Instrument("dspy_mlflow.traces.spooled", "{trace}", "Ended traces that came to the spool."),
    "dead_lettered": _Instrument("dspy_mlflow.traces.dead_lettered", "{trace}", "Lost traces that the spool keeps."),
}
"""The instrument of each counter of `Counters`."""

_OF_PROCESS: tuple[tuple[_Instrument, Callable[[], int]], ...] = (
    (
        _Instrument("dspy_mlflow.calls.open", "{call}", "Calls that have started and not ended."),
        lambda: len(OPEN_SPANS),
    ),
    (
        _Instrument("dspy_mlflow.queue.traces", "{trace}", "Ended traces that wait to be stored."),
        lambda: EXPORTER.queued,
    ),
    (_Instrument("dspy_mlflow.queue.size", "By", "What waiting traces hold, roughly."), lambda: EXPORTER.queued_bytes),
)


class Metrics:
    """Sums the counters of all callbacks of the process; instruments are made once, with the first callback.

    A callback is not held by it: what its counters came to when they went stays in the sums, which never fall.
    """

    def __init__(self) -> None:
        self._live: dict[int, Readers] = {}
        self._gone: Counter[str] = Counter()
        # Of counters that are gone and not yet in the sums: a finalizer runs wherever it may, and takes no lock.
        self._ended: deque[Readers] = deque()
        self._is_installed = False
        self.renew_lock()

    def renew_lock(self) -> None:
        """Begin with a lock that nobody holds, as in a fork of the process, where the holder may not be."""
        self._lock = threading.Lock()

    def watch(self, counters: Counters) -> None:
        """Let what *counters* count be told."""
        with self._lock:
            self._settle()
            readers = counters.readers()
            self._live[id(readers)] = readers
            weakref.finalize(counters, self._ended.append, readers).atexit = False
            if not self._is_installed:
                self._is_installed = True
                self._install()

    def value(self, name: str) -> int:
        """Return what the counters of that name come to, of all callbacks that are and were."""
        with self._lock:
            self._settle()
            return self._gone[name] + sum(readers[name]() for readers in self._live.values())

    def _settle(self) -> None:
        while self._ended:
            readers = self._ended.popleft()
            del self._live[id(readers)]
            self._gone.update({name: read() for name, read in readers.items()})

    def _install(self) -> None:
        meter = metrics.get_meter(_SCOPE)
        for name, each in COUNTERS.items():
            meter.create_observable_counter(each.name, [self._observed(name)], each.unit, each.description)
        for each, value in _OF_PROCESS:
            meter.create_observable_up_down_counter(each.name, [_observing(value)], each.unit, each.description)

    def _observed(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        return _observing(lambda: self.value(name))


def _observing(value: Callable[[], int]) -> Callable[[CallbackOptions], Iterable[Observation]]:
    return lambda _: [Observation(value())]


METRICS = Metrics()
"""The metrics of this process."""

FORKS.begin_anew(METRICS.renew_lock)
