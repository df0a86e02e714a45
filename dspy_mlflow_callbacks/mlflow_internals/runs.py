"""MLflow's active runs."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

import mlflow
from mlflow.tracking import fluent

CARRIED_RUN: ContextVar[Any] = ContextVar("dspy_mlflow_callbacks_run", default=None)
CARRIED_EXPERIMENT: ContextVar[str | None] = ContextVar("dspy_mlflow_callbacks_experiment", default=None)

carried_experiment: Callable[[], str | None] = CARRIED_EXPERIMENT.get
"""Return the id of the experiment that another process handed this one its work with; None where it said none."""


def calling_run() -> Any:
    """Return the MLflow run that is active in this thread, or in the thread that handed DSPy this work.

    MLflow itself takes the newest run of any thread, and mixes up runs that are open side by side.
    """
    return mlflow.active_run() or CARRIED_RUN.get()


def run_of_id(run_id: str, experiment_id: str | None) -> Any:
    """Return what is known here of another process's run: as much of MLflow's `Run` as a trace needs."""
    return SimpleNamespace(info=SimpleNamespace(run_id=run_id, experiment_id=experiment_id))


@contextmanager
def as_active_run(run: Any) -> Iterator[None]:
    """Make *run* this thread's active run: somebody may have left another one open, or it is another thread's."""
    stack = fluent._active_run_stack.get()
    before = list(stack)
    stack.append(run)
    try:
        yield
    finally:
        stack[:] = before


def end_run(run: Any, status: str) -> None:
    """End *run*, which this thread may have open; runs that somebody left open inside it stay open.

    Args:
        run: What `mlflow.start_run` returned.
        status: `FINISHED` or `FAILED`.
    """
    stack = fluent._active_run_stack.get()
    inside = [each for each in stack if each.info.run_id != run.info.run_id]
    stack[:] = [run]
    try:
        mlflow.end_run(status)
    finally:
        stack[:] = inside


def dspy_runs() -> Any:
    """Return MLflow's module that says what runs of DSPy contain; it imports dspy."""
    return importlib.import_module("mlflow.dspy.util")
