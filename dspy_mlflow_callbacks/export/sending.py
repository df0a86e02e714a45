"""Batches on their way: what is refused is split, what a store that is away does not take goes back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from dspy_mlflow_callbacks.export.batch import Batch, Entry
from dspy_mlflow_callbacks.export.delivery import Delivery
from dspy_mlflow_callbacks.export.errors import RefusedError, StoreAwayError
from dspy_mlflow_callbacks.export.lanes import Lanes

_MOST_REFUSALS = 5


class Origin(Protocol):
    """Where traces come from: it hears what becomes of them."""

    def stored(self, entries: Sequence[Entry]) -> None:
        """Hear that traces are stored."""
        ...

    def refused(self, entries: Sequence[Entry], error: Exception) -> None:
        """Hear that traces will not be stored."""
        ...

    def away(self, entries: Sequence[Entry], error: Exception) -> None:
        """Hear that a store does not take these now, and not for the first time."""
        ...

    def put_back(self, batch: Batch) -> None:
        """Take traces back, to be sent first when their store takes some again."""
        ...

    def put_last(self, entry: Entry) -> None:
        """Take back a trace that may be the reason why its store fails, to be sent after others."""
        ...


class Sender:
    """Sends batches, each once.

    Args:
        delivery: Stores batches.
        lanes: Have the way to each store.
        failures_until_said: After how many failures in a row it is said that a store is away: one that restarts is not
            worth a word to who goes on anyway.
    """

    def __init__(self, delivery: Delivery, lanes: Lanes, failures_until_said: int = 2) -> None:
        self._delivery = delivery
        self._lanes = lanes
        self._failures_until_said = failures_until_said

    def send(self, batch: Batch, origin: Origin) -> None:
        """Send a batch, and tell where it came from what became of it."""
        try:
            self._delivery.deliver(batch)
        except RefusedError as error:
            self._refused(batch, origin, error)
        except StoreAwayError as error:
            self._away(batch, origin, error)
        except Exception as error:  # noqa: BLE001  (what cannot even be sent; the worker goes on)
            self._refused(batch, origin, RefusedError(repr(error)))
        else:
            self._lanes.route(batch.destination).succeed(len(batch))
            origin.stored(batch.entries)

    def _refused(self, batch: Batch, origin: Origin, error: RefusedError) -> None:
        if error.is_for_all or len(batch) == 1:
            origin.refused(batch.entries, error)
        else:  # one bad trace does not take the others along
            for half in batch.halves():
                self.send(half, origin)

    def _away(self, batch: Batch, origin: Origin, error: StoreAwayError) -> None:
        route = self._lanes.route(batch.destination)
        route.fail(error.retry_after_s)
        if route.failures >= self._failures_until_said:
            origin.away(batch.entries, error)
        if error.may_be_the_batch and len(batch) == 1:
            self._suspect(batch.entries[0], origin, route.stored, error)
        else:
            if error.may_be_the_batch and not route.is_open:
                route.most = len(batch) // 2
            origin.put_back(batch)

    def _suspect(self, entry: Entry, origin: Origin, stored: int, error: StoreAwayError) -> None:
        # The store has failed over this trace alone. If it takes others, this one is the reason.
        if not entry.refusals:
            entry.stored_before = stored
        entry.refusals += 1
        if entry.refusals >= _MOST_REFUSALS and stored > entry.stored_before:
            origin.refused([entry], error)
        else:
            origin.put_last(entry)
