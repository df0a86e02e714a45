"""Capturing traces, in memory or into a store of their own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import dspy

from dspy_mlflow_callbacks import dspy_internals, mlflow_internals
from dspy_mlflow_callbacks.callbacks import MlflowCallback, TracingCallback
from dspy_mlflow_callbacks.config import TracingConfig
from dspy_mlflow_callbacks.testing.captured import CapturedTraces


@contextmanager
def capture_traces(folder: Path | None = None) -> Iterator[CapturedTraces]:
    """Trace every DSPy program that runs inside into memory, or into a SQLite store in *folder*.

    Meanwhile an `MlflowCallback` with all options at their defaults but without a spool, whatever the environment says,
    stands in for callbacks of this package that were configured; other callbacks stay. Afterwards DSPy's settings and
    MLflow's store, experiment, destination and environment are as before.

    In memory MLflow's store answers all that is asked of traces, but for filters over spans and feedback; what else is
    asked of it (runs, models, further experiments) it keeps in a temporary folder until the end.

    Args:
        folder: Where the store `mlflow.db` and its artifacts are; used again it is set up already. None is memory.
    """
    with (
        _store(folder) as experiment_id,
        dspy_internals.restored_settings(callbacks=[*_others(), MlflowCallback(config=TracingConfig(spool_dir=""))]),
    ):
        yield CapturedTraces(experiment_id)


def _store(folder: Path | None) -> AbstractContextManager[str]:
    if folder is None:
        return mlflow_internals.memory_of_its_own()
    folder, name = folder.resolve(), uuid.uuid4().hex
    return mlflow_internals.store_of_its_own(f"sqlite:///{folder / 'mlflow.db'}", name, folder / name)


def _others() -> list[Any]:
    return [each for each in dspy.settings.get("callbacks", []) if not isinstance(each, TracingCallback)]
