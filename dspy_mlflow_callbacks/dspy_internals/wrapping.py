"""Functions of DSPy that are wrapped for a while."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from dspy_mlflow_callbacks.forks import FORKS

_WRAPPING = FORKS.lock()

_WRAPPED: list[tuple[Any, str, Any]] = []


def wrap(
    owner: Any, name: str, wrapper_of: Callable[[Callable[..., Any]], Callable[..., Any]], *, stays: bool = False
) -> None:
    """Replace *owner*'s function *name* by a wrapper of it; wrapping twice is wrapping once.

    Args:
        owner: A class or module.
        name: The name of its function.
        wrapper_of: Makes the wrapper of the original.
        stays: Whether `uninstall` leaves it.
    """
    with _WRAPPING:  # two threads that make a callback at once
        original = getattr(owner, name)
        if not hasattr(original, "_traced_original"):
            wrapper: Any = functools.wraps(original)(wrapper_of(original))
            wrapper._traced_original = original
            setattr(owner, name, wrapper)
            if not stays:
                _WRAPPED.append((owner, name, wrapper))


def uninstall() -> None:
    """Put back all that `install`, and its like in `lm_internals`, wrapped; calls that run meanwhile end as they began.

    What somebody else has wrapped since stays wrapped.
    """
    with _WRAPPING:
        while _WRAPPED:
            owner, name, wrapper = _WRAPPED.pop()
            if getattr(owner, name) is wrapper:
                setattr(owner, name, wrapper._traced_original)
