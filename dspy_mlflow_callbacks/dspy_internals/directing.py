"""Letting something else answer in place of the LMs and tools that a program calls."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import dspy
from dspy.utils.callback_context import ACTIVE_CALL_ID

from dspy_mlflow_callbacks.dspy_internals.settings import hear_everywhere, restored_settings
from dspy_mlflow_callbacks.forks import FORKS

try:
    from dspy.clients._deprecation import adapter_message_call as _of_an_adapter
except ImportError:  # pragma: no cover  (dspy < 3.4: `make test-oldest`)

    def _of_an_adapter(lm: Any, messages: Any) -> AbstractContextManager[None]:
        return nullcontext()


# Among DSPy's settings, which it carries into its worker threads; the name is ours alone.
_DIRECTOR = "dspy_mlflow_callbacks_director"


class Director(Protocol):
    """Says who answers in place of an LM or a tool that is called."""

    def lm(self, lm: Any, arguments: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
        """Return who answers in place of *lm*, which may be itself, and what of the call's keyword arguments changes.

        An argument that changes to None is left out.
        """
        ...

    def tool(self, tool: Any, arguments: Mapping[str, Any]) -> Any:
        """Return the tool that runs in place of *tool*, which may be itself."""
        ...


@contextmanager
def directed(director: Director, heard: Callable[[Any], Any], **settings: Any) -> Iterator[None]:
    """Ask *director* at each call of an LM or tool that is made inside, wherever DSPy carries its settings.

    What runs inside is no part of a DSPy call that is running outside.

    Args:
        director: Who is asked.
        heard: Returns the callbacks that hear a call for those that the program set, as `dspy.streamify` does.
        settings: DSPy's settings inside.
    """
    _DOORS.open()
    undo = hear_everywhere(lambda callbacks: heard(callbacks) if _director() is director else callbacks)
    token = ACTIVE_CALL_ID.set(None)
    try:
        with dspy.context(**settings, **{_DIRECTOR: director}):
            yield
    finally:
        ACTIVE_CALL_ID.reset(token)
        undo()
        _DOORS.close()


@contextmanager
def directed_everywhere(director: Director) -> Iterator[None]:
    """Ask *director* at each call of an LM or tool that is made meanwhile in this process, in whatever thread."""
    _DOORS.open()
    try:
        with restored_settings(**{_DIRECTOR: director}):
            yield
    finally:
        _DOORS.close()


def _director() -> Director | None:
    found: Director | None = dspy.settings.get(_DIRECTOR)
    return found


def _directing_lms(original: Callable[..., Any]) -> Callable[..., Any]:
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
        director = _director()
        if director is None:
            return original(self, *args, **kwargs)
        lm, kwargs = _directed_lm(director, original, self, args, kwargs)
        with _of_an_adapter(lm, kwargs.get("messages")):
            return original(lm, *args, **kwargs)

    return __call__


def _directing_async_lms(original: Callable[..., Any]) -> Callable[..., Any]:
    async def acall(self: Any, *args: Any, **kwargs: Any) -> Any:
        director = _director()
        if director is None:
            return await original(self, *args, **kwargs)
        lm, kwargs = _directed_lm(director, original, self, args, kwargs)
        with _of_an_adapter(lm, kwargs.get("messages")):
            return await original(lm, *args, **kwargs)

    return acall


def _directed_lm(
    director: Director, function: Callable[..., Any], lm: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    _, *arguments = inspect.signature(function).bind(lm, *args, **kwargs).arguments.items()
    instead, changes = director.lm(lm, dict(arguments))
    kept = {name: value for name, value in kwargs.items() if name not in changes}
    return instead, {**kept, **{name: value for name, value in changes.items() if value is not None}}


def _directing_tools(original: Callable[..., Any]) -> Callable[..., Any]:
    def __call__(self: Any, **kwargs: Any) -> Any:  # noqa: N807
        director = _director()
        return original(self if director is None else director.tool(self, kwargs), **kwargs)

    return __call__


def _directing_async_tools(original: Callable[..., Any]) -> Callable[..., Any]:
    async def acall(self: Any, **kwargs: Any) -> Any:
        director = _director()
        return await original(self if director is None else director.tool(self, kwargs), **kwargs)

    return acall


class _Doors:
    """The functions of DSPy that ask the director: wrapped as long as somebody directs, else DSPy's own."""

    def __init__(self) -> None:
        self._lock = FORKS.lock()
        self._directing = 0
        self._wrapped: dict[tuple[Any, str], Any] = {}

    def open(self) -> None:
        with self._lock:
            self._directing += 1
            for owner, name, wrapper_of in _WRAPPERS:
                if (owner, name) not in self._wrapped:
                    original = getattr(owner, name)
                    wrapper: Any = functools.wraps(original)(wrapper_of(original))
                    wrapper.directed_original = original
                    self._wrapped[owner, name] = wrapper
                    setattr(owner, name, wrapper)

    def close(self) -> None:
        with self._lock:
            self._directing -= 1
            for (owner, name), wrapper in () if self._directing else list(self._wrapped.items()):
                if (
                    getattr(owner, name) is wrapper
                ):  # else somebody else has wrapped it since: it stays, and asks nobody
                    setattr(owner, name, wrapper.directed_original)
                    del self._wrapped[owner, name]


_WRAPPERS: tuple[tuple[Any, str, Callable[[Callable[..., Any]], Callable[..., Any]]], ...] = (
    (dspy.BaseLM, "__call__", _directing_lms),
    (dspy.BaseLM, "acall", _directing_async_lms),
    (dspy.Tool, "__call__", _directing_tools),
    (dspy.Tool, "acall", _directing_async_tools),
)
_DOORS = _Doors()
