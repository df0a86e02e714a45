"""The door to what DSPy does not promise: its context variables and the places that emit no event.

Each function says what it relies on; `tests/test_dspy_internals.py` names it when a DSPy release changes it.
"""

from __future__ import annotations

import functools
import inspect
import logging
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
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
_WRAPPED: list[tuple[Any, str, Any]] = []


class _Installs:
    """How often somebody asked for the wrappers of `install`."""

    count = 0


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


class HearsUnannounced(Protocol):
    """A callback that also wants to hear of calls for which DSPy emits no event."""

    hears_unannounced_calls: bool

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """See `dspy.utils.callback.BaseCallback`."""

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """See `dspy.utils.callback.BaseCallback`."""


class OthersOnly(list[Any]):
    """The callbacks that hear calls of which this package records nothing: everybody else's."""


class KeptCallbacks(list[Any]):
    """A program's own callbacks, of which one goes along with the program's copies.

    DSPy copies programs in two ways. `Module.__getstate__` leaves all callbacks out: it is made to keep this one.
    `Module.deepcopy` copies each attribute where a program cannot be copied whole: this list then says itself what is
    copied. Either way the copies share the callback that is kept.

    Args:
        callbacks: All of the program's own callbacks, in the order in which they hear.
        kept: The one of them that copies have too.
    """

    def __init__(self, callbacks: Iterable[Any], *, kept: Any) -> None:
        super().__init__(callbacks)
        self.kept = kept
        _wrap(dspy.Module, "__getstate__", _keeping, stays=True)  # as long as there may be such a list

    def alone(self) -> KeptCallbacks:
        """Return the callbacks of a copy: the one that is kept."""
        return KeptCallbacks([self.kept], kept=self.kept)

    def __deepcopy__(self, memo: dict[int, Any]) -> KeptCallbacks:
        return self.alone()

    def __reduce__(self) -> tuple[Any, ...]:
        return _kept, (self.kept,)


def _kept(callback: Any) -> KeptCallbacks:
    return KeptCallbacks([callback], kept=callback)


def _keeping(original: Callable[..., Any]) -> Callable[..., Any]:
    def __getstate__(self: Any) -> Any:  # noqa: N807
        state = original(self)
        own = vars(self).get("callbacks")
        return {**state, "callbacks": own.alone()} if isinstance(own, KeptCallbacks) else state

    return __getstate__


def install(in_current_context: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Make DSPy carry the tracing context into worker threads and announce what it keeps quiet about.

    Each wrapper calls the original and changes neither arguments nor result nor what other callbacks hear.
    Installing twice is installing once.

    Args:
        in_current_context: Binds a function to the tracing context of the thread that calls this.
    """
    _Installs.count += 1
    _wrap(parallelizer.ParallelExecutor, "execute", functools.partial(_executing, in_current_context))
    _wrap(dspy.retrievers.Embeddings, "__call__", _announcing)
    _wrap(dspy.KNN, "__call__", _announcing)
    _wrap(dspy.Embedder, "__call__", _announcing_inside_calls)
    _wrap(dspy.Embedder, "acall", _announcing_inside_calls)


def installs() -> int:
    """Return how often `install` was called: who made all of these calls may `uninstall`."""
    return _Installs.count


def uninstall() -> None:
    """Put back all that `install`, and its like in `lm_internals`, wrapped; calls that run meanwhile end as they began.

    What somebody else has wrapped since stays wrapped.
    """
    with _WRAPPING:
        while _WRAPPED:
            owner, name, wrapper = _WRAPPED.pop()
            if getattr(owner, name) is wrapper:
                setattr(owner, name, wrapper._traced_original)


def _wrap(
    owner: Any, name: str, wrapper_of: Callable[[Callable[..., Any]], Callable[..., Any]], *, stays: bool = False
) -> None:
    with _WRAPPING:  # two threads that make a callback at once
        original = getattr(owner, name)
        if not hasattr(original, "_traced_original"):
            wrapper: Any = functools.wraps(original)(wrapper_of(original))
            wrapper._traced_original = original
            setattr(owner, name, wrapper)
            if not stays:
                _WRAPPED.append((owner, name, wrapper))


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
