"""Delivery of a batch to MLflow's tracking store: an SQL database, or a tracking server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.export import feedback
from dspy_mlflow_callbacks.export.batch import Batch
from dspy_mlflow_callbacks.export.errors import RefusedError, StoreAwayError, failure
from dspy_mlflow_callbacks.export.experiments import with_experiment
from dspy_mlflow_callbacks.export.packing import is_server, request_of, spans_to_write
from dspy_mlflow_callbacks.export.waiting import Destination, Prepared
from dspy_mlflow_callbacks.stats import WarnOnce

MOST_LINKS = 100
"""How many traces MLflow links to a run at once (`MAX_TRACE_LINKS_PER_REQUEST`)."""

_WARN = WarnOnce()


def deliver(batch: Batch) -> None:
    """Store a batch from this thread.

    Raises:
        StoreAwayError: if it may be stored later.
        RefusedError: if it will not be stored.
    """
    write = _to_server if is_server(batch.destination) else _to_database
    try:
        internals.in_workspace(batch.destination.workspace, _write, write, batch)
    except RefusedError as error:
        reason: Exception = error
    except Exception as error:  # noqa: BLE001  (whatever a store raises)
        reason = failure(error)
    else:
        return
    # Outside: MLflow's errors hold frames and credentials.
    raise reason


def _write(write: Callable[[Batch], None], batch: Batch) -> None:
    write(with_experiment(batch))


def _to_database(batch: Batch) -> None:
    infos = _started(batch, internals.write_info)
    trace_ids = [prepared.trace_id for prepared in batch.prepared]
    refused = write_to_database(batch.destination, trace_ids, spans_to_write(batch), batch.feedback)
    _add_rest(batch, infos)
    if refused is not None:
        feedback.warn_not_stored(batch.destination.tracking_uri, refused)


def write_to_database(
    destination: Destination, trace_ids: Sequence[str], spans: Sequence[Any], said: Sequence[internals.Feedback]
) -> str | None:
    """Write whole traces to an SQL store: their spans, the link to their run, what metrics say of them.

    Returns:
        Why that feedback is not stored; None if it is.
    """
    internals.write_spans(destination.tracking_uri, destination.experiment_id, spans)
    if destination.run_id is not None:
        _link_run(destination, trace_ids, destination.run_id)
    return feedback.write_to_database(destination.tracking_uri, said)


def _link_run(destination: Destination, trace_ids: Sequence[str], run_id: str) -> None:
    # A run that is gone costs the link, not the traces.
    try:
        for start in range(0, len(trace_ids), MOST_LINKS):
            internals.link_run(destination.tracking_uri, trace_ids[start : start + MOST_LINKS], run_id)
    except Exception as error:
        if isinstance(failure(error), StoreAwayError):
            raise
        _WARN(destination, f"Traces are not linked to the run {run_id}: {failure(error)}")


def _to_server(batch: Batch) -> None:
    destination = batch.destination
    infos = _started(batch, internals.post_info)
    request = request_of(batch)
    internals.post_spans(destination.tracking_uri, destination.experiment_id, destination.run_id, request)
    if destination.run_id is not None and not internals.links_runs(destination.tracking_uri):
        _link_run(destination, [prepared.trace_id for prepared in batch.prepared], destination.run_id)
    _add_rest(batch, infos)
    refused = feedback.send_to_server(destination.tracking_uri, batch.feedback)
    if refused is not None:
        feedback.warn_not_stored(destination.tracking_uri, refused)


def _started(batch: Batch, write: Callable[[str, Any], Any]) -> dict[str, Any]:
    # Before the spans: a trace that is there already is merged after a rollback, for 10 ms.
    uri = batch.destination.tracking_uri
    begun = [each for each in batch.prepared if each.info is not None and not each.is_shared]
    return {each.trace_id: write(uri, each.info) for each in begun}


def _add_rest(batch: Batch, infos: dict[str, Any]) -> None:
    for prepared in batch.prepared:
        if prepared.is_shared:
            internals.merge_info(batch.destination.tracking_uri, prepared.info)
        _add_attachments(batch.destination.tracking_uri, prepared, infos.get(prepared.trace_id))
        internals.link_prompts(batch.destination.tracking_uri, prepared.trace_id, prepared.prompts)


def _add_attachments(uri: str, prepared: Prepared, info: Any) -> None:
    if not prepared.attachments:
        return
    try:
        info = info or internals.stored_info(uri, prepared.trace_id)
        internals.upload_attachments(uri, info, prepared.attachments)
    except Exception as error:  # noqa: BLE001  (the trace is stored, with or without them)
        _WARN("attachments", f"Attachments are not stored: {failure(error)}")
