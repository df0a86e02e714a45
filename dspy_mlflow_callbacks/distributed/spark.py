"""Spark (https://spark.apache.org/docs/latest/api/python/): what runs in workers is part of the driver's trace.

Needs the extra `spark`, and Java.
"""

from __future__ import annotations

import functools
import sys
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from pyspark import TaskContext
from pyspark.sql import SparkSession

from dspy_mlflow_callbacks.distributed.carrying import Carrying


def attempt() -> int:
    """Return which attempt at the running task this is, 1 for the first."""
    context = TaskContext.get()
    return 1 if context is None else int(context.attemptNumber()) + 1


def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return *function* for `DataFrame.mapInPandas`, `RDD.map`, `RDD.mapPartitions` and so on.

    Spark is lazy: what it makes is part of the trace in which this is called, so read the result there too.

    Args:
        function: A program or a function; for `mapInPandas` a generator function that is given the data frames of a
            partition.

    Example:
        ```python
        answered = questions.mapInPandas(traced(answers), "answer string").collect()
        ```
    """
    carrying = Carrying(function, attempt)

    def run(*args: Any, **kwargs: Any) -> Any:
        return carrying(*args, **kwargs)

    return functools.wraps(function, updated=())(run) if hasattr(function, "__name__") else run


def spark_executor(session: SparkSession | None = None, max_workers: int | None = None) -> ThreadPoolExecutor:
    """Return an executor whose work runs as Spark jobs of one task, as part of the trace in which it is submitted.

    A job takes Spark some 10 ms to plan: where that is much, use `mapInPandas`.

    Args:
        session: A session; None takes the one that runs, or starts one on this machine, which the executor's end stops.
        max_workers: How many tasks run at once; None is as many as Spark has room for.
    """
    return _SparkExecutor(session, max_workers)


class _SparkExecutor(ThreadPoolExecutor):
    def __init__(self, session: SparkSession | None, max_workers: int | None) -> None:
        self._own: Any = None
        if session is None:
            session, is_new = _session(max_workers)
            self._own = session if is_new else None
        self._context = session.sparkContext
        self.workers = max_workers or self._context.defaultParallelism
        super().__init__(self.workers)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return super().submit(self._run, traced(fn), args, kwargs)

    def _run(self, task: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        (result,) = self._context.parallelize([0], 1).map(lambda _: task(*args, **kwargs)).collect()
        return result

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002  (its base's)
        super().shutdown(wait, cancel_futures=cancel_futures)
        if self._own is not None:
            self._own.stop()


def _session(max_workers: int | None) -> tuple[Any, bool]:
    """Return the session that runs, or a new one; and whether it is new."""
    active = SparkSession.getActiveSession()
    if active is not None:
        return active, False
    at_once, name = "*" if max_workers is None else max_workers, f"dspy-mlflow-{uuid.uuid4().hex[:8]}"
    builder = SparkSession.builder.master(f"local[{at_once},4]").appName(name)
    session = builder.config("spark.pyspark.python", sys.executable).getOrCreate()
    return session, session.sparkContext.appName == name  # one of another thread keeps its name
