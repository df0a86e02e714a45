"""What a store has of a trace."""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import mlflow


def stored_bytes(traces):
    """Return all that the store has of the captured traces: the database's files and the artifacts."""
    traces.all()
    root = Path(unquote(urlsplit(mlflow.get_experiment(traces.experiment_id).artifact_location).path))
    return b"".join(file.read_bytes() for file in root.parent.rglob("*") if file.is_file())


def run_of(trace):
    """Return the id of the MLflow run that a stored trace says it is of; None if of none.

    MLflow's exporter says it in the trace's metadata. In a batch of spans the root says it.
    """
    return source_of(trace).get("mlflow.sourceRun")


def source_of(trace):
    """Return what a stored trace says of its run, process, user and version control, in metadata or by its root."""
    root = next(span for span in trace.data.spans if span.parent_id is None)
    said = {**root.attributes, **trace.info.trace_metadata}
    return {key: text for key, text in said.items() if key.startswith(("mlflow.source", "mlflow.user"))}


@contextmanager
def tracking_to(uri):
    """Let MLflow's store be that at *uri*, until the block ends."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


@contextmanager
def locked_store():
    """Let nobody else write to the test's database."""
    with closing(sqlite3.connect(urlsplit(mlflow.get_tracking_uri()).path)) as database:
        database.execute("BEGIN EXCLUSIVE")
        yield
        database.rollback()
