"""The calls for which DSPy emits no event, and the threads into which it does not carry MLflow's context."""

from __future__ import annotations

import functools
import inspect
import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import dspy
from dspy.utils import parallelizer
from dspy.utils.callback_context import ACTIVE_CALL_ID

from dspy_mlflow_callbacks.dspy_internals import items
from dspy_mlflow_callbacks.dspy_internals.evaluating import HearsExamples, announcing_examples
from dspy_mlflow_callbacks.dspy_internals.settings import active_call_id
from dspy_mlflow_callbacks.dspy_internals.wrapping import wrap

logger = logging.getLogger("dspy_mlflow_callbacks")


class _Installs:
    """How often somebody asked for the wrappers of `install`."""

    count = 0


class HearsUnannounced(Protocol):
    """A callback that also wants to hear of calls for which DSPy emits no event."""

    hears_unannounced_calls: bool

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """See `dspy.utils.callback.BaseCallback`."""

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """See `dspy.utils.callback.BaseCallback`."""


def install(
    in_current_context: Callable[[Callable[..., Any]], Callable[..., Any]],
    examples_of: Callable[[Sequence[Any]], HearsExamples | None],
) -> None:
    """Make DSPy carry the tracing context into worker threads and announce what it keeps quiet about.

    Each wrapper calls the original and changes neither arguments nor result nor what other callbacks hear.
    Installing twice is installing once.

    Args:
        in_current_context: Binds a function to the tracing context of the thread that calls this.
        examples_of: Returns who hears of the examples that an evaluation works on from here; None where it is none.
    """
    _Installs.count += 1
    items.install(in_current_context)
    wrap(parallelizer.ParallelExecutor, "execute", functools.partial(_executing, in_current_context, examples_of))
    wrap(dspy.retrievers.Embeddings, "__call__", _announcing)
    wrap(dspy.KNN, "__call__", _announcing)
    wrap(dspy.Embedder, "__call__", _announcing_inside_calls)
    wrap(dspy.Embedder, "acall", _announcing_inside_calls)


def installs() -> int:
    """Return how often `install` was called: who made all of these calls may `uninstall`."""
    return _Installs.count


def _executing(
    in_current_context: Callable[[Callable[..., Any]], Callable[..., Any]],
    examples_of: Callable[[Sequence[Any]], HearsExamples | None],
    original: Callable[..., Any],
) -> Callable[..., Any]:
    def execute(self: Any, function: Callable[..., Any], data: Any) -> Any:
        def in_context(function: Callable[..., Any]) -> Callable[..., Any]:
            hearer = examples_of(data)
            return in_current_context(function if hearer is None else announcing_examples(function, hearer))

        return original(self, items.each_an_item(items.bound(in_context, function)), data)

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
