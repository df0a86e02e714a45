"""Functions that run in an engine's worker process as they would run here: in this trace, with these settings."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine, Generator, Mapping
from contextlib import ExitStack, closing
from typing import Any

import cloudpickle

from dspy_mlflow_callbacks import dspy_internals
from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.distributed.attempts import carried_callback, note_retry
from dspy_mlflow_callbacks.distributed.draining import DRAIN
from dspy_mlflow_callbacks.distributed.receiving import continue_trace
from dspy_mlflow_callbacks.distributed.sending import inject_headers
from dspy_mlflow_callbacks.scoped import Opened, Scoped

_KEPT = 16

Attempt = Callable[[], int]


class Carrying:
    """A function that can be pickled and called in another process, in the context in which this was made.

    There it continues the trace that runs here, in DSPy's settings of here (`lm`, `adapter`, `callbacks` and what else
    is set), with MLflow's tracking store of here. When it returns, what it made is stored: the engine may end its
    worker at any time. While it runs, what has ended is stored after a second.

    Settings and function travel by cloudpickle, an LM's key among them, on the engine's own way; the headers of
    `inject_headers` say the rest.

    Args:
        function: Anything that can be called: a program, a function, a coroutine or generator function.
        attempt: Asks, in the worker, which attempt at the task this is, 1 for the first; None where nobody knows.

    Raises:
        TypeError: if *function* cannot be called.

    Example:
        ```python
        pool = ProcessPoolExecutor()
        answers = list(pool.map(Carrying(program), questions))
        ```
    """

    def __init__(self, function: Callable[..., Any], attempt: Attempt | None = None) -> None:
        if not callable(function):
            message = f"function must be something to call, got {function!r}"
            raise TypeError(message)
        self.headers: dict[str, str] = inject_headers()
        self._attempt = attempt
        self._uri = internals.tracking_uri()
        self._settings = dspy_internals.carried_settings()
        self.function = function
        self._pickled_function: bytes | None = None
        self._pickled_settings: bytes | None = None

    def __repr__(self) -> str:
        return f"Carrying({self.function!r})"

    def again(self) -> Carrying:
        """Return the same function in the context of now; it is pickled once, as it was the first time."""
        again = Carrying(self.function, self._attempt)
        again._pickled_function = self._dumped()
        return again

    def __reduce__(self) -> tuple[Any, ...]:
        if self._pickled_settings is None:
            settings = {name: _pickled(name, value) for name, value in self._settings.items()}
            self._pickled_settings = cloudpickle.dumps(settings)
        return Carried, (self._dumped(), self._pickled_settings, self.headers, self._uri, self._attempt)

    def _dumped(self) -> bytes:
        if self._pickled_function is None:
            self._pickled_function = cloudpickle.dumps(self.function)
        return self._pickled_function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function in the context."""
        return run(self.function, _InWorker(self.headers, self._settings), args, kwargs)


class Carried:
    """What a `Carrying` is in another process; function and settings are unpickled when they are needed."""

    def __init__(
        self, function: bytes, settings: bytes, headers: Mapping[str, str], uri: str, attempt: Attempt | None
    ) -> None:
        self._arguments = function, settings, headers, uri, attempt

    def __reduce__(self) -> tuple[Any, ...]:
        return Carried, self._arguments

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function in the context."""
        function, settings, headers, uri, attempt = self._arguments
        internals.go_to(uri)
        number = 1 if attempt is None else attempt()
        context = _InWorker(headers, _settings_of(settings, number))
        result = run(_function_of(function), context, args, kwargs)
        if number > 1:
            note_retry(headers)
        return result


def _pickled(name: str, value: Any) -> bytes:
    try:
        pickled: bytes = cloudpickle.dumps(value)
    except Exception as error:
        message = (
            f"DSPy's setting {name!r} cannot be sent to another process: {error}. "
            f"Leave it out around the call: with dspy.context({name}=...)."
        )
        raise TypeError(message) from error
    return pickled


@functools.lru_cache(_KEPT)
def _function_of(pickled: bytes) -> Callable[..., Any]:
    function: Callable[..., Any] = cloudpickle.loads(pickled)
    return function


@functools.lru_cache(_KEPT)
def _settings_of(pickled: bytes, attempt: int) -> dict[str, Any]:
    settings = {name: cloudpickle.loads(value) for name, value in cloudpickle.loads(pickled).items()}
    callbacks = settings.get("callbacks", [])
    if callbacks:
        settings["callbacks"] = [carried_callback(each, attempt) for each in callbacks]
    return settings


def run(function: Callable[..., Any], context: _InWorker, args: Any, kwargs: Any) -> Any:
    """Call a function in a context, and let what it made be stored before it is over."""
    try:
        result = context.call(function, args, kwargs)
    except BaseException:
        DRAIN()
        raise
    if inspect.iscoroutine(result):
        return _awaited(result)
    if inspect.isgenerator(result):
        return _stepped(result)
    DRAIN()
    return result


async def _awaited(coroutine: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await coroutine
    finally:
        await asyncio.to_thread(DRAIN)


def _stepped(generator: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    try:
        for value in generator:
            DRAIN()  # the engine has the step's result from here on
            yield value
    finally:
        generator.close()
        DRAIN()


class _InWorker(Scoped):
    """The context in which a function is carried."""

    called = "Carrying"

    def __init__(self, headers: Mapping[str, str], settings: Mapping[str, Any]) -> None:
        super().__init__()
        self._headers = headers
        self._settings = settings

    def call(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call anything that can be called in the context."""
        with closing(self._begun()):
            result = function(*args, **kwargs)
        return self._in_scope(result)

    def _begun(self) -> Opened:
        stack = ExitStack()
        stack.callback(dspy_internals.SettingsOverride(**self._settings).undo)
        stack.enter_context(continue_trace(self._headers))
        return stack
