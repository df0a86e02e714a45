"""Callbacks of a program that go along with its copies."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import dspy

from dspy_mlflow_callbacks.dspy_internals.wrapping import wrap


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
        wrap(dspy.Module, "__getstate__", _keeping, stays=True)  # as long as there may be such a list

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
