"""Experiments by name or id, also for traces that ended before their server was there to say which one it is."""

from __future__ import annotations

import functools
from typing import Any

import attrs
import mlflow
from mlflow.entities import LifecycleStage, TraceLocation
from mlflow.exceptions import MlflowException

from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.export.batch import Batch
from dspy_mlflow_callbacks.export.errors import RefusedError

_BY_NAME = "name:"


class DeletedExperimentError(MlflowException):
    """The experiment is deleted."""


def to_be_found(name_or_id: str) -> str:
    """Return what stands in place of an experiment's id until its store can be asked."""
    return f"{_BY_NAME}{name_or_id}"


def is_to_be_found(experiment_id: str) -> bool:
    """Return whether an experiment's id is none yet."""
    return experiment_id.startswith(_BY_NAME)


def with_experiment(batch: Batch) -> Batch:
    """Return a batch whose experiment is known, once its store has said which one it is.

    Raises:
        RefusedError: if the experiment is deleted; another error if the store does not say.
    """
    destination = batch.destination
    if not is_to_be_found(destination.experiment_id):
        return batch
    internals.reach(destination.tracking_uri)  # MLflow's client would try for minutes
    try:
        found = _known(destination.tracking_uri, destination.workspace, destination.experiment_id)
    except DeletedExperimentError as error:
        raise RefusedError(error.message, is_for_all=True) from None
    for entry in batch.entries:
        info = entry.leaves.info
        if info is not None:
            info.trace_location = TraceLocation.from_experiment_id(found)
    return Batch(attrs.evolve(destination, experiment_id=found), batch.entries)


@functools.lru_cache(maxsize=256)
def _known(uri: str, workspace: str | None, name: str) -> str:
    return find(uri, name.removeprefix(_BY_NAME))


def find(uri: str, name_or_id: str) -> str:
    """Return the id of an experiment by name, or by id where none has that name; one that is not there is made.

    A number is never made into a name: where an id was meant, traces would go astray.

    Raises:
        DeletedExperimentError: if it is deleted; another error if the store does not say.
    """
    client = mlflow.MlflowClient(uri)
    found = client.get_experiment_by_name(name_or_id)
    if found is None and name_or_id.isdecimal():
        found = client.get_experiment(name_or_id)
    if found is None:
        found = _create(client, name_or_id)
    if found.lifecycle_stage != LifecycleStage.ACTIVE:
        message = f"it is deleted; `mlflow experiments restore -x {found.experiment_id}` brings it back"
        raise DeletedExperimentError(message)
    return str(found.experiment_id)


def _create(client: Any, name: str) -> Any:
    try:
        return client.get_experiment(client.create_experiment(name))
    except MlflowException:
        found = client.get_experiment_by_name(name)  # another thread or process was faster
        if found is None:
            raise
        return found
