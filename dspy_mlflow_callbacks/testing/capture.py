"""Capturing traces into a store of their own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dspy

from dspy_mlflow_callbacks import dspy_internals, mlflow_internals
from dspy_mlflow_callbacks.callbacks import MlflowCallback, TracingCallback
from dspy_mlflow_callbacks.config import TracingConfig
from dspy_mlflow_callbacks.testing.captured import CapturedTraces


@contextmanager
def capture_traces(folder: Path) -> Iterator[CapturedTraces]:
    """Trace every DSPy program that runs inside into a SQLite store in *folder*.

    Meanwhile an `MlflowCallback` with all options at their defaults but without a spool, whatever the environment says,
    stands in for callbacks of this package that were configured; other callbacks stay. Afterwards DSPy's settings and
    MLflow's store, experiment, destination and environment are as before.

    Args:
        folder: Where the store `mlflow.db` and its artifacts are; used again it is set up already.
    """
    folder = folder.resolve()
    name = uuid.uuid4().hex
    others = [each for each in dspy.settings.get("callbacks", []) if not isinstance(each, TracingCallback)]
    with (
        mlflow_internals.store_of_its_own(f"sqlite:///{folder / 'mlflow.db'}", name, folder / name) as experiment_id,
        dspy_internals.restored_settings(callbacks=[*others, MlflowCallback(config=TracingConfig(spool_dir=""))]),
    ):
        yield CapturedTraces(experiment_id)
