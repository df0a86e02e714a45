"""Stores that MLflow traces into for a while."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow.tracing import provider
from mlflow.tracking import fluent
from mlflow.tracking._tracking_service import utils as tracking_service

from dspy_mlflow_callbacks.mlflow_internals.memory_store import EXPERIMENT_ID, memory_store


@contextmanager
def store_of_its_own(tracking_uri: str, experiment_name: str, artifacts: Path) -> Iterator[str]:
    """Trace into a new experiment of the store at *tracking_uri* and yield its id, then put everything back.

    Traces are written at once, in the thread that ends them.
    """
    with _tracing_into(tracking_uri):
        # A write takes two connections of a pool of 15: when 16 threads hold one each, all of them wait for ever.
        os.environ.pop("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", None)
        os.environ["MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW"] = "-1"
        experiment_id = mlflow.create_experiment(experiment_name, artifact_location=artifacts.as_uri())
        fluent._active_experiment_id = experiment_id  # `set_experiment` would log and ask the store
        yield experiment_id


@contextmanager
def memory_of_its_own() -> Iterator[str]:
    """Trace into a store in memory and yield its experiment's id, then put everything back.

    Traces are written at once, in the thread that ends them.
    """
    with memory_store() as uri, _tracing_into(uri):
        fluent._active_experiment_id = EXPERIMENT_ID
        yield EXPERIMENT_ID


@contextmanager
def _tracing_into(tracking_uri: str) -> Iterator[None]:
    with _restored_globals(), _restored_environment():
        mlflow.tracing.reset()
        os.environ["MLFLOW_ENABLE_ASYNC_TRACE_LOGGING"] = "false"
        os.environ.pop("MLFLOW_TRACE_SAMPLING_RATIO", None)
        mlflow.set_tracking_uri(tracking_uri)
        yield


@contextmanager
def _restored_globals() -> Iterator[None]:
    uri, experiment = tracking_service._tracking_uri, fluent._active_experiment_id
    destination = provider._MLFLOW_TRACE_USER_DESTINATION.get()
    enabled = provider.is_tracing_enabled()
    try:
        yield
    finally:
        tracking_service._tracking_uri = uri
        fluent._active_experiment_id = experiment
        mlflow.tracing.reset()
        if destination is not None:
            mlflow.tracing.set_destination(destination)
        if not enabled:
            mlflow.tracing.disable()


@contextmanager
def _restored_environment() -> Iterator[None]:
    before = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
            del os.environ[name]
        os.environ.update(before)
