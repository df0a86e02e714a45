"""Ray (https://docs.ray.io): tasks, actors and batches that are part of the trace in which they are called.

Needs the extra `ray`.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Executor, Future
from typing import Any

import ray

from dspy_mlflow_callbacks.distributed.carrying import Carrying


def attempt() -> int:
    """Return which attempt at the running task this is, 1 for the first."""
    worker: Any = ray.get_runtime_context().worker  # the number of a task's attempt has no public name
    number = getattr(worker.core_worker, "get_current_task_attempt_number", lambda: 0)
    return int(number()) + 1


class TracedTask:
    """A function as a Ray task: what `ray.remote(function)` is, and what it makes is part of the caller's trace.

    Args:
        function: A program or a function.
        options: Ray's options of the task, such as `num_cpus` and `max_retries`.

    Example:
        ```python
        answer = TracedTask(program)
        answers = ray.get([answer.remote(question=question) for question in questions])
        ```
    """

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        self._function = Carrying(function, attempt)
        self._options = {"name": getattr(function, "__name__", type(function).__name__), **options}
        self._task = _run.options(**self._options)

    @property
    def function(self) -> Callable[..., Any]:
        """The function."""
        return self._function.function

    def options(self, **options: Any) -> TracedTask:
        """Return the task with other options of Ray's."""
        return TracedTask(self.function, **{**self._options, **options})

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Let Ray run it, and return what Ray's `remote` does."""
        return self._task.remote(self._function.again(), *args, **kwargs)


class TracedActor:
    """An object that lives in a Ray actor: what its methods make is part of the trace of whoever calls them.

    Args:
        kind: The class of the object.
        args: What it is made with.
        options: Ray's options of the actor.
        kwargs: What it is made with, by name.

    Example:
        ```python
        answers = TracedActor(Answers, "a model", options={"max_concurrency": 4})
        ray.get(answers.call("answer", question))
        ```
    """

    def __init__(self, kind: type, *args: Any, options: dict[str, Any] | None = None, **kwargs: Any) -> None:
        self.handle = _Actor.options(**(options or {})).remote(Carrying(kind), *args, **kwargs)  # type: ignore[attr-defined]

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Let the actor call a method, and return what Ray's `remote` does."""
        return self.handle.call.remote(Carrying(_Method(method), attempt), *args, **kwargs)


def traced_batches(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return *function* for `ray.data.Dataset.map_batches`, `map` and so on: each batch is part of the trace of now.

    Example:
        ```python
        answered = dataset.map_batches(traced_batches(answer))
        ```
    """
    carrying = Carrying(function, attempt)

    @functools.wraps(function)
    def batches(*args: Any, **kwargs: Any) -> Any:
        return carrying(*args, **kwargs)

    return batches


def ray_executor(max_workers: int | None = None) -> Executor:
    """Return an executor whose work runs as Ray tasks, as part of the trace in which it is submitted.

    Args:
        max_workers: How many tasks run at once; None is as many as Ray has CPUs for. Where this process has no Ray yet,
            it joins the cluster that `RAY_ADDRESS` or `ray start` says, or one is started on this machine, for so many;
            the executor's end leaves it.
    """
    return _RayExecutor(max_workers)


class _RayExecutor(Executor):
    def __init__(self, max_workers: int | None) -> None:
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            _join(max_workers)
        cpus = ray.cluster_resources().get("CPU", 1.0)
        self._options = {} if max_workers is None else {"num_cpus": max(1.0, cpus // max_workers)}
        self.workers = max_workers or max(1, int(cpus))
        self._task: TracedTask | None = None
        self._futures: set[Future[Any]] = set()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self._task is None or self._task.function is not fn:  # what is submitted again and again is pickled once
            self._task = TracedTask(fn, **self._options)
        future: Future[Any] = self._task.remote(*args, **kwargs).future()
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002  (its base's)
        left = list(self._futures)
        for future in left if cancel_futures else ():
            future.cancel()
        if wait:
            self._leave(left)
        elif self._is_ours:
            threading.Thread(target=self._leave, args=(left,), name="dspy-mlflow-ray", daemon=True).start()

    def _leave(self, left: list[Future[Any]]) -> None:
        """Wait for what runs, and end or leave the cluster."""
        futures.wait(left)
        if self._is_ours:
            self._is_ours = False
            ray.shutdown()


def _join(max_workers: int | None) -> None:
    try:
        ray.init(num_cpus=max_workers, include_dashboard=False)
    except ValueError:  # there is a cluster that this process is to join: it has the CPUs that it has
        ray.init()


class _Method:
    """Calls a method of an object that it is given."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, owner: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(owner, self._name)(*args, **kwargs)


@ray.remote  # type: ignore[untyped-decorator]
def _run(task: Carrying, *args: Any, **kwargs: Any) -> Any:
    return task(*args, **kwargs)


@ray.remote
class _Actor:
    """What an object lives in."""

    def __init__(self, make: Carrying, *args: Any, **kwargs: Any) -> None:
        self._made = make(*args, **kwargs)

    def call(self, method: Carrying, *args: Any, **kwargs: Any) -> Any:
        """Call one of its methods."""
        return method(self._made, *args, **kwargs)
