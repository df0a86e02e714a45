"""Traces out of files back into a store; a trace that is there already stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import attrs
import mlflow
from mlflow import MlflowClient

from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.export.batch import Batch, Entry
from dspy_mlflow_callbacks.export.tracking_store import deliver
from dspy_mlflow_callbacks.export.waiting import Destination, Outcome, Prepared
from dspy_mlflow_callbacks.stored.files import prepared_of

_BATCH = 100


@attrs.define
class Imported:
    """What an import has done so far.

    Attributes:
        stored: Traces that were stored.
        skipped: Traces that were there already, with as many spans.
    """

    stored: int = 0
    skipped: int = 0


@attrs.frozen
class _Arrived:
    """A trace out of a file, as the exporter has those that wait."""

    destination: Destination
    leaves: Prepared
    size: int = 0

    def prepared(self) -> Prepared:
        """Return what leaves: no payload step runs on what has left before."""
        return self.leaves

    def done(self, outcome: Outcome, error: Exception | None = None) -> None:
        """Hear what became of it; an error has been raised."""


def experiment_id_of(name: str | None) -> str:
    """Return the id of an experiment given by name or id, made if there is none; None is MLflow's active one."""
    if name is None:
        return str(internals.active_experiment_id())
    client = MlflowClient()
    found = client.get_experiment_by_name(name)
    if found is None and name.isdecimal():
        found = client.get_experiment(name)
    return str(client.create_experiment(name) if found is None else found.experiment_id)


def import_lines(lines: Iterable[str], experiment: str | None, advance: Callable[[], None]) -> Imported:
    """Store the traces of lines, a hundred at a time.

    Args:
        lines: Those of a file that `dspy-mlflow export` or another OpenTelemetry tool has written.
        experiment: Where they go, by name or id; None is MLflow's active experiment.
        advance: Called for each trace.

    Returns:
        How many were stored and skipped.

    Raises:
        ValueError: if a line holds no trace; it says which. What stood before it is stored.
        StoreAwayError: if the store does not answer.
        RefusedError: if it does not take them.
    """
    destination = Destination(tracking_uri=mlflow.get_tracking_uri(), experiment_id=experiment_id_of(experiment))
    done, traces = Imported(), _traces(lines, destination.experiment_id)
    is_at_end = False
    while not is_at_end:
        batch: list[Prepared] = []
        try:
            batch.extend(islice(traces, _BATCH))
            is_at_end = not batch
        finally:  # what stood before a line that holds no trace
            _store(batch, destination, done)
        for _ in batch:
            advance()
    return done


def _traces(lines: Iterable[str], experiment_id: str) -> Iterator[Prepared]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield from prepared_of(line, experiment_id)
            except ValueError as error:
                message = f"line {number}: {error}"
                raise ValueError(message) from error


def _store(batch: Sequence[Prepared], destination: Destination, done: Imported) -> None:
    there = internals.stored_spans(destination.tracking_uri, [each.trace_id for each in batch])
    new = [each for each in batch if there.get(each.trace_id, 0) < len(each.spans)]
    done.skipped += len(batch) - len(new)
    # Those with a record of their own are sent apart: with one among them a batch is no plain one.
    for is_plain in (True, False):
        alike = [each for each in new if (each.info is None) is is_plain]
        if alike:
            arrived = [_Arrived(destination, each) for each in alike]
            entries = [Entry(0, each, each.size, each.prepared()) for each in arrived]
            deliver(Batch(destination, entries))
            done.stored += len(alike)
