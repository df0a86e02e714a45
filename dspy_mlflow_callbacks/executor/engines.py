"""Places by their names in `on`; those that stand on an engine bring it in only when they are asked for."""

from __future__ import annotations

from concurrent.futures import Executor

from dspy_mlflow_callbacks.distributed.threads import Carried
from dspy_mlflow_callbacks.executor.places import EventLoop, Place, Pool, Processes, Threads
from dspy_mlflow_callbacks.executor.work import Work


def place_on(on: str | Executor, work: Work, context: Carried, max_workers: int) -> Place:
    """Return the place with this name, or that of an executor of the caller's."""
    if isinstance(on, Executor):
        return Pool(work, context, on, is_ours=False)
    if on == "threads":
        return Threads(work, context, max_workers)
    if on == "asyncio":
        return EventLoop(work, context)
    return Processes(work, context, max_workers)
