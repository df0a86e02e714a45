"""Running a program in a replay: away from what runs outside, sync or async, to its end."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Callable, Iterable
from typing import Any

import attrs
import dspy

from dspy_mlflow_callbacks import dspy_internals, mlflow_internals
from dspy_mlflow_callbacks.callbacks import MlflowCallback, TracingCallback
from dspy_mlflow_callbacks.replaying.inputs import Arguments
from dspy_mlflow_callbacks.replaying.listener import Listener
from dspy_mlflow_callbacks.replaying.programs import is_async
from dspy_mlflow_callbacks.replaying.session import Session
from dspy_mlflow_callbacks.scopes import trace_context

Outcome = tuple[Any, "BaseException | None"]
"""What a program returned, and what it raised."""


@attrs.frozen
class Heard:
    """Says who hears the calls of a replay: those that would anyway, but for who traces them, and the replay's own."""

    tracing: MlflowCallback
    listener: Listener

    def __call__(self, callbacks: Iterable[Any]) -> Iterable[Any]:
        """Return who hears a call in place of *callbacks*."""
        if any(each is self.listener for each in callbacks):
            return callbacks
        others = [each for each in callbacks if not isinstance(each, TracingCallback)]
        return [*others, self.tracing, self.listener]


def run(
    session: Session,
    heard: Heard,
    program: Any,
    arguments: Arguments,
    settings: dict[str, Any],
) -> Outcome:
    """Return what a program comes to where *session* answers its calls.

    Args:
        session: Who answers.
        heard: Who hears.
        program: A module or a function.
        arguments: What it is called with.
        settings: DSPy's settings around it.

    Raises:
        KeyboardInterrupt: and SystemExit, where the recording does not have it.
    """
    args, kwargs = arguments
    tags = {"dspy.replay.of": session.recording.trace_id}
    call = program.acall if is_async(program) else program

    def outcome() -> Outcome:
        mlflow_internals.leave_spans()
        with trace_context(tags=tags, enabled=True), dspy_internals.directed(session, heard, **settings):
            try:
                return _settled(call(*args, **kwargs)), None
            except BaseException as error:  # noqa: BLE001  (also what is recorded: an interrupt, a cancellation)
                return None, error

    context = contextvars.copy_context()
    result, error = _outside_loops(lambda: context.run(outcome))
    if session.stopped is not None:
        return None, None  # whatever the program made of it
    if isinstance(error, (KeyboardInterrupt, SystemExit)) and not _is_recorded(session, error):
        raise error
    return result, error


def _is_recorded(session: Session, error: BaseException) -> bool:
    recorded = session.recording.root.error
    return recorded is not None and recorded[0] == type(error).__name__


def _outside_loops(function: Callable[[], Outcome]) -> Outcome:
    """Run *function* where no event loop runs, so that it may start one: in a notebook, in a thread of its own."""
    if not _is_in_loop():
        return function()
    results: list[Outcome] = []
    thread = threading.Thread(target=lambda: results.append(function()), name="dspy-mlflow-replay")
    thread.start()
    thread.join()
    return results[0]


def _is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _settled(result: Any) -> Any:
    """Return what a program comes to: what a coroutine returns; of a stream the prediction at its end, or all of it."""
    if inspect.isasyncgen(result):
        result = asyncio.run(_read(result))
    elif inspect.isgenerator(result):
        result = list(result)
    elif inspect.iscoroutine(result):
        return asyncio.run(result)
    else:
        return result
    return result[-1] if result and isinstance(result[-1], dspy.Prediction) else result


async def _read(stream: Any) -> list[Any]:
    return [item async for item in stream]
