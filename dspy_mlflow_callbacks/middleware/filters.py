"""Leaving out kinds of call, names and levels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

from dspy_mlflow_callbacks import checks
from dspy_mlflow_callbacks.events import LEVELS, CallKind, CallStart
from dspy_mlflow_callbacks.middleware.globs import matches

_GROUPS = {
    "adapter": (CallKind.ADAPTER_FORMAT, CallKind.ADAPTER_PARSE),
    "interpreter": tuple(kind for kind in CallKind if kind.value.startswith("interpreter_")),
}
# Examples are a part of their evaluation, trials of their compile.
_PARTS = {CallKind.EXAMPLE: CallKind.EVALUATE, CallKind.TRIAL: CallKind.COMPILE}
_ALLOWED_KINDS = (*(kind.value for kind in CallKind if kind not in _PARTS), *_GROUPS)


def _kinds(names: Iterable[CallKind | str]) -> frozenset[CallKind]:
    given = checks.items("kinds", names, ", ".join(_ALLOWED_KINDS))
    return frozenset(kind for name in given for kind in _kinds_of(name))


def _kinds_of(name: CallKind | str) -> tuple[CallKind, ...]:
    if isinstance(name, CallKind):
        return (_asked(name),)
    if isinstance(name, str) and name in _GROUPS:
        return _GROUPS[name]
    if name not in _ALLOWED_KINDS:
        message = f"{name!r} is no kind of call; allowed are {', '.join(_ALLOWED_KINDS)}"
        raise ValueError(message)
    return (CallKind(name),)


def _asked(kind: CallKind) -> CallKind:
    """Return the kind by which calls of *kind* are asked for: that of which they are parts."""
    return _PARTS.get(kind, kind)


def _optional_kinds(names: Iterable[CallKind | str] | None) -> frozenset[CallKind] | None:
    return None if names is None else _kinds(names)


@attrs.frozen
class KindFilter:
    """Records some kinds of call.

    Args:
        include: The kinds that get spans, as `CallKind` or its value, or `adapter` and `interpreter` for all of theirs;
            None is all. Calls of other kinds are hidden: what they call nests where their span would have stood.
            `evaluate` is evaluations and their examples, `compile` is optimizers and their trials.
        exclude: Kinds that are dropped with everything below them.

    Raises:
        TypeError: if one of them is no iterable.
        ValueError: if a name is no kind of call.

    Example:
        ```python
        MlflowCallback(middleware=[KindFilter(["module", "lm", "tool"], exclude=["evaluate"])])
        MlflowCallback(events=["module", "lm", "tool"], evaluate=False)  # the same as options
        ```
    """

    include: frozenset[CallKind] | None = attrs.field(default=None, converter=_optional_kinds)
    exclude: frozenset[CallKind] = attrs.field(default=frozenset(), converter=_kinds)

    __repr__ = checks.brief_repr

    def __call__(self, call: CallStart) -> CallStart | None:
        """Return *call*, a hidden copy of it, or None to drop it."""
        kind = _asked(call.kind)
        if kind in self.exclude:
            return None
        return call if self.include is None or kind in self.include else attrs.evolve(call, is_hidden=True)


def _globs(names: Any) -> tuple[str, ...]:
    globs = checks.items("names", names, "globs such as 'Program.*'")
    for glob in globs:
        if not isinstance(glob, str) or not glob:
            message = f"a glob must be a text such as 'Program.*', got {glob!r}"
            raise TypeError(message)
    return globs


@attrs.frozen
class NameFilter:
    """Records calls by the names of their spans, such as `Program.generate.predict` or `openai/gpt-4o`.

    Args:
        include: Globs: a call that matches is recorded with everything below it, what is around it is hidden. Where
            nothing around a call is recorded, a trace begins with it. Empty is all.
        exclude: Globs: a call that matches is dropped with everything below it, also below one that is included.

    Raises:
        TypeError: if one of them is no iterable of texts.

    Example:
        ```python
        MlflowCallback(middleware=[NameFilter(include=["*.generate"], exclude=["*.generate.predict"])])
        MlflowCallback(include=["*.generate"], exclude=["*.generate.predict"])  # the same as options
        ```
    """

    include: tuple[str, ...] = attrs.field(default=(), converter=_globs)
    exclude: tuple[str, ...] = attrs.field(default=(), converter=_globs)

    __repr__ = checks.brief_repr

    def __call__(self, call: CallStart) -> CallStart | None:
        """Return *call*, a hidden copy of it, or None to drop it."""
        if self.exclude and matches(call.name, self.exclude):
            return None
        if self.include and not self._is_included(call):
            return attrs.evolve(call, is_hidden=True)
        return call

    def _is_included(self, call: CallStart) -> bool:
        here: CallStart | None = call
        while here is not None and not matches(here.name, self.include):
            here = here.parent
        return here is not None


# What DSPy does around the calls that a user thinks of.
_DEBUG_KINDS = frozenset(
    {CallKind.ADAPTER_FORMAT, CallKind.ADAPTER_PARSE, CallKind.INTERPRETER_STARTUP, CallKind.INTERPRETER_SHUTDOWN}
)


def _level(name: Any) -> str:
    if not isinstance(name, str) or name.upper() not in LEVELS:
        message = f"level must be one of {', '.join(level.lower() for level in LEVELS)}, got {name!r}"
        raise ValueError(message)
    return name.lower()


@attrs.frozen
class LevelFilter:
    """Records calls from a level on: adapters, start and end of interpreters are `debug`, all others `info`.

    A call below the level is hidden: what it calls nests where its span would have stood. A middleware that stands
    before this one may have given a call another level.

    Args:
        level: `debug` (everything), `info`, `warning`, `error` or `critical`.

    Raises:
        ValueError: if *level* is none of these.

    Example:
        ```python
        MlflowCallback(middleware=[LevelFilter("info")])
        MlflowCallback(level="info")  # the same as an option
        ```
    """

    level: str = attrs.field(converter=_level)

    def __call__(self, call: CallStart) -> CallStart:
        """Return *call*, or a hidden copy of it."""
        level = call.level or ("DEBUG" if call.kind in _DEBUG_KINDS else "INFO")
        if LEVELS.index(level) >= LEVELS.index(self.level.upper()):
            return call
        return attrs.evolve(call, is_hidden=True)
