"""What a store has, byte by byte."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

import mlflow


def stored_bytes(traces):
    """Return all that the store has of the captured traces: the database's files and the artifacts."""
    traces.all()
    root = Path(unquote(urlsplit(mlflow.get_experiment(traces.experiment_id).artifact_location).path))
    return b"".join(file.read_bytes() for file in root.parent.rglob("*") if file.is_file())
