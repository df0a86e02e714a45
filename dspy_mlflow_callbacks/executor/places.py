"""Where the work is done: threads, an event loop, processes, an engine."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import threading
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, Protocol

import cloudpickle

from dspy_mlflow_callbacks.distributed.carrying import Carrying
from dspy_mlflow_callbacks.distributed.threads import Carried
from dspy_mlflow_callbacks.executor.work import Call, Outcome, RemoteWork, Work, received


class Place(Protocol):
    """Does the work on inputs, as many at once as it is given."""

    def submit(self, call: Call) -> Future[Any]:
        """Begin the work on an input."""
        ...

    def outcome(self, future: Future[Any]) -> Outcome:
        """Return what came of it, or raise what the engine has in its place."""
        ...

    def renew(self) -> None:
        """Get workers in place of some that are dead, or that go on with an input that was given up."""
        ...

    def cancel(self) -> None:
        """End what is running, where that can be done without ending the workers."""
        ...

    def close(self, *, wait: bool) -> None:
        """End the workers, and *wait* until they have ended."""
        ...


class Threads:
    """Threads of this process.

    Args:
        work: The work.
        context: The context in which it is done.
        max_workers: How many threads.
    """

    def __init__(self, work: Work, context: Carried, max_workers: int) -> None:
        self._work = work
        self._context = context
        self._max_workers = max_workers
        self._pool = self._new_pool()

    def _new_pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._max_workers, thread_name_prefix="dspy-mlflow-run")

    def submit(self, call: Call) -> Future[Any]:
        """Begin the work on an input in a thread."""
        return self._pool.submit(self._context.run, self._work, call)

    def outcome(self, future: Future[Any]) -> Outcome:
        """Return what came of it."""
        outcome: Outcome = future.result()
        return outcome

    def renew(self) -> None:
        """Get other threads: nothing ends one that goes on."""
        self._pool.shutdown(wait=False)
        self._pool = self._new_pool()

    def cancel(self) -> None:
        """Leave threads to end by themselves."""

    def close(self, *, wait: bool) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=wait)


class EventLoop:
    """Tasks of an event loop in a thread of its own.

    Args:
        work: The work.
        context: The context in which it is done.
    """

    def __init__(self, work: Work, context: Carried) -> None:
        self._call = context(work.acall)
        self._loop = asyncio.new_event_loop()
        self._tasks: set[Future[Any]] = set()
        self._thread = threading.Thread(target=self._serve, name="dspy-mlflow-run-loop", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()

    def submit(self, call: Call) -> Future[Any]:
        """Begin a task."""
        future = asyncio.run_coroutine_threadsafe(self._call(call), self._loop)
        self._tasks.add(future)
        future.add_done_callback(self._tasks.discard)
        return future

    def outcome(self, future: Future[Any]) -> Outcome:
        """Return what came of it."""
        outcome: Outcome = future.result()
        return outcome

    def renew(self) -> None:
        """Do nothing: tasks are cancelled when their time is up."""

    def cancel(self) -> None:
        """Cancel what is running."""
        for future in list(self._tasks):
            future.cancel()

    def close(self, *, wait: bool) -> None:
        """End the loop."""
        self.cancel()
        self._loop.call_soon_threadsafe(self._stop)
        if wait:
            self._thread.join()

    def _stop(self) -> None:
        left = asyncio.all_tasks(self._loop)
        if not left:
            self._loop.stop()
        else:  # until cancelled tasks have said so in their traces
            self._loop.call_later(_CANCELLED_CHECKED_S, self._stop)


_CANCELLED_CHECKED_S = 0.005


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
