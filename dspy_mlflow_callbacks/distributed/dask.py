"""Dask (https://distributed.dask.org): tasks and bags that are part of the trace in which they are submitted.

Needs the extra `dask`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from distributed import Client, LocalCluster, get_worker
from distributed.cfexecutor import ClientExecutor
from distributed.diagnostics.plugin import SchedulerPlugin

from dspy_mlflow_callbacks.distributed.attempts import ATTEMPT
from dspy_mlflow_callbacks.distributed.carrying import Carrying

_BEGUN = "dspy-mlflow-begun"
_OVER = ("memory", "erred", "forgotten")


class AttemptPlugin(SchedulerPlugin):
    """Lets the scheduler tell a worker which attempt at a task it makes, if it was begun before.

    Example:
        ```python
        client.register_plugin(AttemptPlugin())
        ```
    """

    name = "dspy-mlflow-attempts"
    idempotent = True

    def __init__(self) -> None:
        self._scheduler: Any = None
        self._begun: Counter[str] = Counter()

    async def start(self, scheduler: Any) -> None:
        """Begin with the scheduler."""
        self._scheduler = scheduler

    def log_event(self, topic: str, msg: Any) -> None:
        """Hear from a worker that it has begun a task: of those that it was given others may only wait."""
        if topic == _BEGUN:
            self._begun[msg] += 1

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        """Hear of a task that goes from one state to another."""
        if finish in _OVER:
            self._begun.pop(str(key), None)
        elif start == "processing" and str(key) in self._begun:
            task = self._scheduler.tasks[key]
            task.annotations = {**(task.annotations or {}), ATTEMPT: self._begun[str(key)] + 1}


def attempt() -> int:
    """Return which attempt at the running task this is, 1 for the first."""
    try:
        worker = get_worker()
        key = worker.get_current_task()
        annotations = worker.state.tasks[key].annotations
    except (ValueError, AttributeError, KeyError):  # one of Dask's other schedulers
        return 1
    worker.log_event(_BEGUN, str(key))
    return int((annotations or {}).get(ATTEMPT, 1))


def traced(function: Callable[..., Any]) -> Carrying:
    """Return *function* for `Client.submit`, `Client.map` and `dask.bag`: its calls are part of the trace of now.

    Args:
        function: A program or a function.

    Example:
        ```python
        answers = client.gather(client.map(traced(program), questions))
        bag = dask.bag.from_sequence(questions).map(traced(program))
        ```
    """
    return Carrying(function, attempt)


def dask_executor(client: Client | None = None, max_workers: int | None = None) -> Executor:
    """Return an executor whose work runs as Dask tasks, as part of the trace in which it is submitted.

    Args:
        client: A client of a cluster; None takes the current one (`Client.current`), or starts a cluster on this
            machine, which the executor's end stops.
        max_workers: How many processes that one has; None leaves it to Dask.
    """
    return _DaskExecutor(client, max_workers)


class _DaskExecutor(ClientExecutor):
    def __init__(self, client: Client | None, max_workers: int | None) -> None:
        self._own: tuple[Any, ...] = ()
        client = client or _current()
        if client is None:
            cluster = LocalCluster(n_workers=max_workers, threads_per_worker=1, dashboard_address=":0")
            client = Client(cluster)
            self._own = (client, cluster)
        client.register_plugin(AttemptPlugin())
        super().__init__(client)
        self._function: Carrying | None = None

    @property
    def workers(self) -> int:
        """How many tasks run at once: workers come and go."""
        return max(1, int(sum(self._client.nthreads().values())))

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        known = self._function
        # What is submitted again and again is pickled once.
        task = known.again() if known is not None and known.function is fn else traced(fn)
        self._function = task
        return super().submit(task, *args, **kwargs)

    def map(self, fn: Callable[..., Any], *iterables: Any, **options: Any) -> Any:
        return Executor.map(self, fn, *iterables, **options)  # Dask's own does not go by `submit`

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002  (its base's)
        super().shutdown(wait=wait and not cancel_futures)  # Dask cancels what it does not wait for
        for each in self._own:
            each.close()


def _current() -> Client | None:
    try:
        return Client.current()
    except ValueError:  # there is none
        return None
