"""Where the work is done in other processes: those of this machine, an engine's, an executor's of the caller's."""

from __future__ import annotations

import multiprocessing
import signal
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import Any

import cloudpickle

from dspy_mlflow_callbacks.distributed.carrying import Carrying
from dspy_mlflow_callbacks.distributed.threads import Carried
from dspy_mlflow_callbacks.executor.outcome import Call, Outcome
from dspy_mlflow_callbacks.executor.remote import RemoteWork, received
from dspy_mlflow_callbacks.executor.work import Work


class Pool:
    """An executor whose workers are other processes.

    Args:
        work: The work.
        context: The context in which it is done.
        executor: The executor.
        is_ours: Whether it ends with the run.

    Raises:
        TypeError: if the program, or one of DSPy's settings, cannot be sent to another process.
    """

    def __init__(self, work: Work, context: Carried, executor: Executor, *, is_ours: bool) -> None:
        try:
            cloudpickle.dumps(work.program)
        except Exception as error:
            message = f"program cannot be sent to another process: {error}"
            raise TypeError(message) from error
        self._work = context.run(Carrying, RemoteWork(work))
        self._executor = executor
        self._is_ours = is_ours

    def submit(self, call: Call) -> Future[Any]:
        """Begin the work on an input in a worker."""
        return self._executor.submit(self._work, call)

    def outcome(self, future: Future[Any]) -> Outcome:
        """Return what came of it."""
        return received(future.result())

    def renew(self) -> None:
        """Leave workers to the engine."""

    def cancel(self) -> None:
        """Leave what is running to its end."""

    def close(self, *, wait: bool) -> None:
        """End the workers that are ours."""
        if self._is_ours:
            self._executor.shutdown(wait=wait)


class Processes(Pool):
    """Processes of this machine, begun with `spawn`.

    Args:
        work: The work.
        context: The context in which it is done.
        max_workers: How many processes.
    """

    def __init__(self, work: Work, context: Carried, max_workers: int) -> None:
        self._max_workers = max_workers
        super().__init__(work, context, self._new_pool(), is_ours=True)

    def _new_pool(self) -> ProcessPoolExecutor:
        spawn = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self._max_workers, mp_context=spawn, initializer=_leave_interrupts_to_the_parent)

    def renew(self) -> None:
        """Get other processes: the death of one ends all of its pool."""
        self._executor.shutdown(wait=False)
        self._executor = self._new_pool()


class Engine(Pool):
    """An executor of `distributed`, which lets what it is given continue the trace by itself.

    Args:
        work: The work.
        context: The context in which it is done.
        executor: The executor.
        is_ours: Whether it ends with the run.
    """

    def __init__(self, work: Work, context: Carried, executor: Executor, *, is_ours: bool) -> None:
        super().__init__(work, context, executor, is_ours=is_ours)
        self._context = context
        self._remote = RemoteWork(work)

    def submit(self, call: Call) -> Future[Any]:
        """Begin the work on an input in a worker."""
        future: Future[Any] = self._context.run(self._executor.submit, self._remote, call)
        return future


def _leave_interrupts_to_the_parent() -> None:
    """Let Ctrl+C, which a terminal sends to all processes, be heard by the one that knows what is done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
