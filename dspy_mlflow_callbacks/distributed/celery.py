"""Celery (https://docs.celeryq.dev): tasks that are part of the trace in which they are sent.

Needs the extra `celery`.
"""

from __future__ import annotations

import functools
from contextlib import ExitStack
from typing import Any

from celery import Celery, Task, signals

from dspy_mlflow_callbacks import dspy_internals
from dspy_mlflow_callbacks.distributed.attempts import carried_callback, note_retry
from dspy_mlflow_callbacks.distributed.draining import DRAIN
from dspy_mlflow_callbacks.distributed.receiving import continue_trace
from dspy_mlflow_callbacks.distributed.sending import inject_headers
from dspy_mlflow_callbacks.flushing import flush

HEADER = "dspy_mlflow"
"""The header of a message in which the trace travels."""


class TracedTasks:
    """Listens to Celery's signals, in whoever sends tasks and in workers, of all pools.

    A worker has its own LM, adapter and callbacks (`dspy.configure` in the module with its tasks) and MLflow's tracking
    store from its own environment.
    """

    def __init__(self) -> None:
        self._running: dict[str, tuple[ExitStack, int, Any]] = {}

    def listen(self) -> None:
        """Begin to listen; a second time is none."""
        signals.before_task_publish.connect(self.sent, dispatch_uid="dspy_mlflow.sent")
        signals.task_prerun.connect(self.begun, dispatch_uid="dspy_mlflow.begun")
        signals.task_postrun.connect(self.ended, dispatch_uid="dspy_mlflow.ended")
        for signal in (signals.worker_process_shutdown, signals.worker_shutdown):
            signal.connect(self.stopped, dispatch_uid="dspy_mlflow.stopped")

    def sent(self, headers: Any = None, **_: Any) -> None:
        """Let the message that is about to be sent say which trace it is part of."""
        if headers is not None:
            headers[HEADER] = inject_headers()

    def begun(self, task_id: str, task: Any, **_: Any) -> None:
        """Continue the trace of the message."""
        said = getattr(task.request, HEADER, None)
        if not isinstance(said, dict):  # sent by somebody who does not trace
            return
        attempt = attempt_of(task.request)
        stack = ExitStack()
        callbacks = [_carried(each, attempt) for each in dspy_internals.settings.get("callbacks", [])]
        stack.callback(dspy_internals.SettingsOverride(callbacks=callbacks).undo)
        stack.enter_context(continue_trace(said))
        self._running[task_id] = stack, attempt, said

    def ended(self, task_id: str, **_: Any) -> None:
        """Leave it, once what the task made is stored: the worker may be gone any time."""
        running = self._running.pop(task_id, None)
        if running is None:
            return
        stack, attempt, said = running
        stack.close()
        DRAIN()
        if attempt > 1:
            note_retry(said)

    def stopped(self, **_: Any) -> None:
        """Store what is left when a worker stops."""
        flush(DRAIN.timeout_s)


@functools.lru_cache(64)
def _carried(callback: Any, attempt: int) -> Any:
    return carried_callback(callback, attempt)


def attempt_of(request: Any) -> int:
    """Return which attempt at a task this is, 1 for the first: Celery's retries, and what it sent again.

    Args:
        request: The task's `request`.
    """
    is_sent_again = bool((request.delivery_info or {}).get("redelivered"))
    return int(request.retries or 0) + 1 + is_sent_again


TRACED_TASKS = TracedTasks()


class DrainedTask(Task):
    """A task that is over when what it made is stored: Celery's signals come when its result is out already."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it."""
        if self.request.called_directly:
            return super().__call__(*args, **kwargs)
        try:
            return self.run(*args, **kwargs)
        finally:
            DRAIN()


def trace_tasks(app: Celery) -> None:
    """Make all Celery tasks that this process sends or runs part of the trace in which they were sent.

    Call it where the app is made, before its tasks: whoever sends tasks and its workers import that module both. A
    second call changes nothing.

    Args:
        app: Its tasks are over when what they made is stored. Tasks of a class of your own are once Celery has their
            result: let it derive from `DrainedTask` to have it the other way round.

    Example:
        ```python
        app = Celery("answers", broker="redis://localhost")
        trace_tasks(app)
        ```
    """
    TRACED_TASKS.listen()
    if app.task_cls == "celery.app.task:Task":
        app.task_cls = f"{__name__}:DrainedTask"
