"""Places by their names in `on`; those that stand on an engine bring it in only when they are asked for."""

from __future__ import annotations

import importlib
import os
from concurrent.futures import Executor

from dspy_mlflow_callbacks import dspy_internals
from dspy_mlflow_callbacks.distributed.threads import Carried
from dspy_mlflow_callbacks.executor.elsewhere import Engine, Pool, Processes
from dspy_mlflow_callbacks.executor.places import EventLoop, Place, Threads
from dspy_mlflow_callbacks.executor.work import Work

ENGINES = {"ray": "ray", "dask": "distributed", "spark": "pyspark"}
"""Engines by name, and the package that each needs."""

_ROOM = "dspy_mlflow_callbacks.distributed."
_CORES = os.cpu_count() or 1
_THREADS = 8  # as DSPy's own `num_threads`


def place_on(on: str | Executor, work: Work, context: Carried, max_workers: int | None) -> tuple[Place, int]:
    """Return the place with this name, or that of an executor of the caller's, and how many inputs it works on at once.

    Raises:
        ImportError: if the engine is not installed.
    """
    if isinstance(on, Executor):
        # Those of `distributed`, such as `dask_executor(client)`, let work continue the trace by themselves.
        kind = Engine if type(on).__module__.startswith(_ROOM) else Pool
        return kind(work, context, on, is_ours=False), max_workers or _workers_of(on)
    if on in ENGINES:
        executor = _executor(on, max_workers)
        return Engine(work, context, executor, is_ours=True), max_workers or _workers_of(executor)
    if on == "processes":
        workers = max_workers or _CORES
        return Processes(work, context, workers), workers
    workers = max_workers or int(dspy_internals.settings.get("num_threads") or _THREADS)
    return EventLoop(work, context) if on == "asyncio" else Threads(work, context, workers), workers


def _workers_of(executor: Executor) -> int:
    """Return how many tasks an executor runs at once: those of engines know it."""
    return int(getattr(executor, "workers", _CORES))


def _executor(engine: str, max_workers: int | None) -> Executor:
    try:
        room = importlib.import_module(f"{_ROOM}{engine}")
    except ImportError as error:
        install = f"pip install 'dspy-mlflow-callbacks[{engine}]'"
        message = f"on={engine!r} needs the package {ENGINES[engine]}: {install} ({error})"
        raise ImportError(message) from error
    executor: Executor = getattr(room, f"{engine}_executor")(max_workers=max_workers)
    return executor
