"""Where MLflow sends traces."""

from __future__ import annotations

import os
from pathlib import Path

import mlflow
from mlflow.tracing import provider
from mlflow.tracking import fluent

from dspy_mlflow_callbacks.mlflow_internals.tracers import tracer


def has_destination() -> bool:
    """Return whether the user chose where traces go with `mlflow.tracing.set_destination`."""
    return provider._MLFLOW_TRACE_USER_DESTINATION.get() is not None


def experiment_variables() -> tuple[str | None, str | None]:
    """Return the experiment's name and id that MLflow's variables say, where nothing in the program is before them.

    MLflow asks its store for them at every trace, where it stores traces there.
    """
    if fluent._active_experiment_id or has_destination() or not tracer().asks_for_experiment:
        return None, None
    return os.environ.get("MLFLOW_EXPERIMENT_NAME"), os.environ.get("MLFLOW_EXPERIMENT_ID")


def active_experiment_id() -> str | None:
    """Return the id of the experiment that MLflow sends traces to; None where they go elsewhere."""
    destination = provider._MLFLOW_TRACE_USER_DESTINATION.get()
    if destination is None:
        return str(fluent._get_experiment_id())
    return getattr(destination, "experiment_id", None)


def tracking_uri() -> str:
    """Return where MLflow keeps traces, as a process in another folder says it."""
    uri: str = mlflow.get_tracking_uri()
    dialect, mark, path = uri.partition(":///")
    if not dialect.startswith("sqlite") or not path or path.startswith(("/", ":", "file:")):
        return uri
    return f"{dialect}{mark}{Path(path).absolute()}"


def go_to(uri: str) -> None:
    """Let MLflow keep the traces of this process there."""
    if mlflow.get_tracking_uri() != uri:
        mlflow.set_tracking_uri(uri)


def tag_trace(trace_id: str, key: str, text: str) -> None:
    """Set a tag of a stored trace."""
    mlflow.MlflowClient().set_trace_tag(trace_id, key, text)
