"""Places by their names in `on`; those that stand on an engine bring it in only when they are asked for."""

from __future__ import annotations

import importlib
from concurrent.futures import Executor

from dspy_mlflow_callbacks.distributed.threads import Carried
from dspy_mlflow_callbacks.executor.elsewhere import Engine, Pool, Processes
from dspy_mlflow_callbacks.executor.places import EventLoop, Place, Threads
from dspy_mlflow_callbacks.executor.work import Work

ENGINES = {"ray": "ray", "dask": "distributed", "spark": "pyspark"}
"""Engines by name, and the package that each needs."""

_ROOM = "dspy_mlflow_callbacks.distributed."


def place_on(on: str | Executor, work: Work, context: Carried, max_workers: int) -> Place:
    """Return the place with this name, or that of an executor of the caller's.

    Raises:
        ImportError: if the engine is not installed.
    """
    if isinstance(on, Executor):
        # Those of `distributed`, such as `dask_executor(client)`, let work continue the trace by themselves.
        kind = Engine if type(on).__module__.startswith(_ROOM) else Pool
        return kind(work, context, on, is_ours=False)
    if on in ENGINES:
        return Engine(work, context, _executor(on, max_workers), is_ours=True)
    if on == "asyncio":
        return EventLoop(work, context)
    return (Threads if on == "threads" else Processes)(work, context, max_workers)


def _executor(engine: str, max_workers: int) -> Executor:
    try:
        room = importlib.import_module(f"{_ROOM}{engine}")
    except ImportError as error:
        install = f"pip install 'dspy-mlflow-callbacks[{engine}]'"
        message = f"on={engine!r} needs the package {ENGINES[engine]}: {install} ({error})"
        raise ImportError(message) from error
    executor: Executor = getattr(room, f"{engine}_executor")(max_workers=max_workers)
    return executor
