"""Where the work is done in this process: threads, an event loop."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from dspy_mlflow_callbacks.distributed.threads import Carried
from dspy_mlflow_callbacks.executor.outcome import Call, Outcome
from dspy_mlflow_callbacks.executor.work import Work


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
