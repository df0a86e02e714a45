"""DSPy's settings and the context variables in which it keeps them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar, Token
from typing import Any

import dspy
from dspy.dsp.utils.settings import main_thread_config, thread_local_overrides
from dspy.utils.callback_context import ACTIVE_CALL_ID

Settings = dict[str, Any]

settings = dspy.settings
"""DSPy's settings: each attribute is what holds where it is asked for."""

active_call_id: Callable[[], str | None] = ACTIVE_CALL_ID.get
"""Return the id of the enclosing DSPy call; in a start hook that is the parent's."""


class _Overrides(dict[str, Any]):
    """DSPy's settings as one override made them."""

    override: SettingsOverride


class SettingsOverride:
    """DSPy settings changed for what runs below a call, as `dspy.context` does, from start hook to end hook.

    The change lives in a context variable that DSPy copies into its worker threads. DSPy runs the end hooks of several
    callbacks in the order of their start hooks, so the first of two overrides may be undone first.
    """

    __slots__ = ("_around", "_below", "_is_undone", "_made", "_token")

    def __init__(self, **settings: Any) -> None:
        self._is_undone = False
        self._around = active_call_id()
        self._below: Settings = thread_local_overrides.get()
        self._made = _Overrides(self._below, **settings)
        self._made.override = self
        self._token: Token[Settings] = thread_local_overrides.set(self._made)

    def undo(self) -> None:
        """Put back what was there before; a no-op in a context that never saw the change."""
        self._is_undone = True
        current = thread_local_overrides.get()
        if isinstance(current, _Overrides) and current.override.stands_on(self):
            return  # it puts back what is below both
        try:
            thread_local_overrides.reset(self._token)
        except ValueError:
            # The call ended in another context than it started in (an abandoned async generator):
            # the context in which the override stands is gone with its task.
            return
        below = self._below
        while isinstance(below, _Overrides) and below.override._is_undone:
            below = below.override._below
        if below is not self._below:
            thread_local_overrides.set(below)

    def stands_on(self, other: SettingsOverride) -> bool:
        """Return whether this one was made on top of *other*, for the same call, and is not undone."""
        below = self._below
        while isinstance(below, _Overrides) and below.override is not other:
            below = below.override._below
        return isinstance(below, _Overrides) and not self._is_undone and self._around == other._around


class OutsideCalls:
    """DSPy's context without an enclosing call, until it is closed: what runs in it is another process's work."""

    def __init__(self) -> None:
        self._token = ACTIVE_CALL_ID.set(None)

    def close(self) -> None:
        """Put back what was there before; a no-op in a context that never saw the change."""
        with suppress(ValueError):
            ACTIVE_CALL_ID.reset(self._token)


_CARRIED_CALL_ID: ContextVar[str | None] = ContextVar("dspy_mlflow_callbacks_call", default=None)

carried_call_id: Callable[[], str | None] = _CARRIED_CALL_ID.get
"""Return the id of the call in which the caller's work was handed to another thread; None where it was not."""


class CarriedCalls:
    """DSPy's context of now for another thread: the enclosing call, and the settings that hold in it."""

    def __init__(self) -> None:
        self._call_id = active_call_id()
        self._overrides = thread_local_overrides.get()

    def open(self) -> OpenCalls:
        """Make it the context of the caller; closed, the one before is."""
        return OpenCalls(
            (ACTIVE_CALL_ID, ACTIVE_CALL_ID.set(self._call_id)),
            (thread_local_overrides, thread_local_overrides.set(self._overrides)),
            (_CARRIED_CALL_ID, _CARRIED_CALL_ID.set(self._call_id)),
        )


class OpenCalls:
    """A `CarriedCalls` that holds here, until it is closed."""

    def __init__(self, *changes: tuple[ContextVar[Any], Token[Any]]) -> None:
        self._changes = changes

    def close(self) -> None:
        """Put back what was there."""
        for variable, token in self._changes:
            with suppress(ValueError):  # opened in another context: an abandoned async generator
                variable.reset(token)


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


class OthersOnly(list[Any]):
    """The callbacks that hear calls of which this package records nothing: everybody else's."""


def hear_everywhere(extended: Callable[[Any], Any]) -> Callable[[], None]:
    """Let more callbacks hear all calls than a program configures, whatever it configures later.

    DSPy asks `dspy.settings.get("callbacks")` at every call; nothing is configured, so that any thread and async task
    may do this, and `dspy.settings.callbacks` stays the program's own.

    Args:
        extended: Returns the callbacks that hear a call for those that are configured where it is made.

    Returns:
        What puts everything back. Where somebody else has wrapped the same since, *extended* is asked on.
    """
    owner = type(dspy.settings)
    original = owner.get

    @functools.wraps(original)
    def get(self: Any, key: str, default: Any = None) -> Any:
        value = original(self, key, default)
        return extended(value) if key == "callbacks" else value

    def undo() -> None:
        if owner.get is get:
            owner.get = original

    owner.get = get
    return undo
