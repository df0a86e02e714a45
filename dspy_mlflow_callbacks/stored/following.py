"""Traces as they are stored: what was not there when one looked before."""

from __future__ import annotations

import time
from collections.abc import Callable

import attrs
from mlflow.entities import Trace

from dspy_mlflow_callbacks.stored.search import Search, traces

HORIZON_S = 600.0
"""How long before it is stored a trace may have begun, in seconds, to be seen."""

_MOST = 2_000


class Follower:
    """Finds traces that have ended since it last looked.

    MLflow sorts traces by when they began and stores them when they have ended, so that a new one may stand anywhere
    among those that are known.

    Args:
        search: Which.
        now: Tells the time in seconds since 1970.
    """

    def __init__(self, search: Search, now: Callable[[], float] = time.time) -> None:
        self._search = search
        self._now = now
        self._seen: dict[str, int] = {}
        self.new()

    def new(self) -> list[Trace]:
        """Return the traces that are new, without their spans, oldest first."""
        since = int((self._now() - HORIZON_S) * 1000)
        search = attrs.evolve(self._search, since_ms=max(since, self._search.since_ms or 0))
        found = [
            trace
            for trace in traces(search, limit=_MOST, with_spans=False)
            if trace.info.state.value != "IN_PROGRESS" and trace.info.trace_id not in self._seen
        ]
        self._seen = {trace_id: began for trace_id, began in self._seen.items() if began >= since}
        self._seen |= {trace.info.trace_id: trace.info.request_time for trace in found}
        return found[::-1]
