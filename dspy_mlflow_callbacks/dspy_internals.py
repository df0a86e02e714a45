"""The door to what DSPy does not promise: its context variables and the places that emit no event.

Each function says what it relies on; `tests/test_dspy_internals.py` names it when a DSPy release changes it.
"""

from __future__ import annotations

import functools
import inspect
import logging
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import Token
from typing import Any, Protocol

import dspy
from dspy.dsp.utils.settings import main_thread_config, thread_local_overrides
from dspy.utils import parallelizer
from dspy.utils.callback_context import ACTIVE_CALL_ID

Settings = dict[str, Any]

settings = dspy.settings
"""DSPy's settings: each attribute is what holds where it is asked for."""

logger = logging.getLogger("dspy_mlflow_callbacks")

_WRAPPING = threading.Lock()


def active_call_id() -> str | None:
    """Return the id of the enclosing DSPy call; in a start hook that is the parent's."""
    call_id: str | None = ACTIVE_CALL_ID.get()
    return call_id


class SettingsOverride:
    """DSPy settings changed for what runs below a call, as `dspy.context` does, from start hook to end hook.

    The change lives in a context variable that DSPy copies into its worker threads.
    """

    __slots__ = ("_token",)

    def __init__(self, **settings: Any) -> None:
        self._token: Token[Settings] = thread_local_overrides.set({**thread_local_overrides.get(), **settings})

    def undo(self) -> None:
        """Put back what was there before; a no-op in a context that never saw the change."""
        try:
            thread_local_overrides.reset(self._token)
        except ValueError:
            # The call ended in another context than it started in (an abandoned async generator):
            # the context in which the override stands is gone with its task.
            return


class HearsUnannounced(Protocol):
    """A callback that also wants to hear of calls for which DSPy emits no event."""

    hears_unannounced_calls: bool

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """See `dspy.utils.callback.BaseCallback`."""

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """See `dspy.utils.callback.BaseCallback`."""


def install(in_current_context: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Make DSPy carry the tracing context into worker threads and announce what it keeps quiet about.

    Each wrapper calls the original and changes neither arguments nor result nor what other callbacks hear.
    Installing twice is installing once.

    Args:
        in_current_context: Binds a function to the tracing context of the thread that calls this.
    """
    _wrap(parallelizer.ParallelExecutor, "execute", functools.partial(_executing, in_current_context))
    _wrap(dspy.retrievers.Embeddings, "__call__", _announcing)
    _wrap(dspy.KNN, "__call__", _announcing)
    _wrap(dspy.Embedder, "__call__", _announcing_inside_calls)
    _wrap(dspy.Embedder, "acall", _announcing_inside_calls)


def _wrap(owner: Any, name: str, wrapper_of: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    with _WRAPPING:  # two threads that make a callback at once
        original = getattr(owner, name)
        if not hasattr(original, "_traced_original"):
            wrapper: Any = functools.wraps(original)(wrapper_of(original))
            wrapper._traced_original = original
            setattr(owner, name, wrapper)


def _executing(
    in_current_context: Callable[[Callable[..., Any]], Callable[..., Any]], original: Callable[..., Any]
) -> Callable[..., Any]:
    def execute(self: Any, function: Callable[..., Any], data: Any) -> Any:
        try:
            bound = in_current_context(function)
        except Exception:  # the program's own call: it must run
            logger.warning("MLflow's context does not reach DSPy's worker threads.", exc_info=True)
            bound = function
        return original(self, bound, data)

    return execute


def _announcing(original: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _announced(self, original, args, kwargs) as result:
            result.append(original(self, *args, **kwargs))
        return result[0]

    return call


def _announcing_inside_calls(original: Callable[..., Any]) -> Callable[..., Any]:
    """Announce embedding calls only inside a DSPy call: alone they are no execution of a program."""
    announcing = _announcing(original)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return (announcing if active_call_id() else original)(self, *args, **kwargs)

    async def acall(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not active_call_id():
            return await original(self, *args, **kwargs)
        with _announced(self, original, args, kwargs) as result:
            result.append(await original(self, *args, **kwargs))
        return result[0]

    return acall if inspect.iscoroutinefunction(original) else call


@contextmanager
def _announced(
    instance: Any, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> Iterator[list[Any]]:
    """Tell our own callbacks that *function* runs, as `dspy.utils.callback.with_callbacks` would tell all."""
    hearers = _hearers(instance)
    call_id = uuid.uuid4().hex
    result: list[Any] = []
    for hearer in hearers:
        inputs = _arguments(function, instance, args, kwargs)
        _tell(hearer.on_module_start, call_id=call_id, instance=instance, inputs=inputs)
    token = ACTIVE_CALL_ID.set(call_id) if hearers else None
    exception: BaseException | None = None
    try:
        yield result
    except BaseException as error:
        exception = error
        raise
    finally:
        if token is not None:
            ACTIVE_CALL_ID.reset(token)
        for hearer in hearers:
            outputs = result[0] if result else None
            _tell(hearer.on_module_end, call_id=call_id, outputs=outputs, exception=exception)


def _tell(hook: Callable[..., None], **arguments: Any) -> None:
    """Call a hook as DSPy does: what a hook of the user's own class raises is logged, and the program goes on."""
    try:
        hook(**arguments)
    except Exception as error:
        logger.warning("A callback's hook failed: %r", error, exc_info=error)


def _hearers(instance: Any) -> list[HearsUnannounced]:
    callbacks = [*dspy.settings.get("callbacks", []), *(getattr(instance, "callbacks", None) or ())]
    return [callback for callback in callbacks if getattr(callback, "hears_unannounced_calls", False)]


def _arguments(
    function: Callable[..., Any], instance: Any, args: Sequence[Any], kwargs: dict[str, Any]
) -> dict[str, Any]:
    try:
        bound = inspect.signature(function).bind(instance, *args, **kwargs)
    except TypeError:
        return {"args": tuple(args), "kwargs": kwargs}  # wrong arguments: the call itself will say so
    _, *rest = bound.arguments.items()
    return dict(rest)


@contextmanager
def restored_settings(**changes: Any) -> Iterator[None]:
    """Change DSPy's settings for all threads, and put all of them back, whatever was configured meanwhile.

    Where a `dspy.context` around this would hide a change, it is made there too.
    """
    before = dict(main_thread_config)
    hidden = {name: value for name, value in changes.items() if name in thread_local_overrides.get()}
    main_thread_config.update(changes)
    override = SettingsOverride(**hidden)
    try:
        yield
    finally:
        override.undo()
        main_thread_config.clear()
        main_thread_config.update(before)
