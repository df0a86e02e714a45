"""Delivery of a whole spool from this thread, for the command line."""

from __future__ import annotations

from collections.abc import Sequence

from dspy_mlflow_callbacks.export.batch import Batch, Entry
from dspy_mlflow_callbacks.export.delivery import Deliver, Delivery
from dspy_mlflow_callbacks.export.lanes import Lanes
from dspy_mlflow_callbacks.export.redelivery import Redelivery
from dspy_mlflow_callbacks.export.sending import Sender
from dspy_mlflow_callbacks.export.spool.settings import SpoolSettings
from dspy_mlflow_callbacks.export.spool.spools import Spools
from dspy_mlflow_callbacks.export.tracking_store import deliver
from dspy_mlflow_callbacks.stats import WarnNotStored


def flush(settings: SpoolSettings, *, dead_letters: bool = False, write: Deliver = deliver) -> int:
    """Deliver what waits in a spool and return how many traces were stored; a store that is away is asked once.

    Args:
        settings: Where the spool is.
        dead_letters: Whether what was refused is tried again.
        write: Stores a batch.

    Raises:
        SpoolError: if the spool cannot be used.
    """
    spools, lanes, stored = Spools(), Lanes(), _Stored(write)
    spool = spools.open(settings)
    spool.destinations()  # raises where it cannot be used, which the worker only warns of
    if dead_letters:
        spool.revive()
    warn = WarnNotStored()

    def say(entries: Sequence[Entry], error: Exception) -> None:
        warn.store(entries[0].trace.destination.tracking_uri, str(error), may_wait=True)

    sender = Sender(Delivery(stored), lanes, failures_until_said=1)  # it is asked once
    redelivery = Redelivery(spools, sender, lanes, say)
    while redelivery.deliver(hurried=False) is not None:
        pass
    spools.close()
    return stored.traces


class _Stored:
    """Stores batches, and counts what is stored."""

    def __init__(self, write: Deliver) -> None:
        self._write = write
        self.traces = 0

    def __call__(self, batch: Batch) -> None:
        self._write(batch)
        self.traces += len(batch)
