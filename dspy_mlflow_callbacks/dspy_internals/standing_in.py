"""LMs that give known answers in place of others: alike in everything else, so that nobody can tell them apart."""

from __future__ import annotations

import copy
import functools
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Protocol

import dspy

try:
    from dspy.clients.backend_selection import CLIENT_KEYS
    from dspy.lm15 import response_to_events
except ImportError:  # pragma: no cover  (dspy < 3.4: `make test-oldest`)
    CLIENT_KEYS = frozenset()
    response_to_events = None

HAS_ENGINES = response_to_events is not None
"""Whether the installed DSPy has engines: since 3.4."""

NO_CONNECTION = dict.fromkeys(CLIENT_KEYS)
"""The arguments of a call that an LM with an engine refuses: how to reach a provider."""


class Answer(Protocol):
    """What an LM answers to one call.

    Attributes:
        model: The model that answered.
        error: What it raised; None if it answered.
    """

    model: str
    error: BaseException | None

    def outputs(self) -> list[Any]:
        """Return the completions as DSPy hands them to adapters: texts, or dicts with `text` and more."""
        ...

    def finish_reasons(self) -> Sequence[str | None]:
        """Return why the model stopped, for each completion."""
        ...

    def response(self, index: int) -> Any:
        """Return a completion as a `dspy.lm15.Response`."""
        ...


def standing_in(lm: Any, answer: Answer) -> Any:
    """Return an LM that is as *lm* is, and gives *answer* to the one call that is made of it.

    Neither DSPy's cache nor its retries are asked, and *lm*'s history does not change.
    """
    return by_engine(lm, answer) if HAS_ENGINES else by_forward(lm, answer)


def by_engine(lm: Any, answer: Answer) -> Any:
    """Return an LM whose engine gives *answer*: the way of DSPy 3.4 and newer."""
    engine = _Engine(answer)
    made = _copied(lm, _with_engine(lm.__class__))
    if _would_be_wrapped(answer.error):
        made.__class__ = _raising(made.__class__)
        made._replayed_answer = answer
    made._engine_spec, made._async_engine_spec = engine, _AsyncEngine(engine)
    made._cache_responses = False
    return made


def by_forward(lm: Any, answer: Answer) -> Any:
    """Return an LM whose `forward` gives *answer*: the way before DSPy 3.4."""
    made = _copied(lm, _with_forward(lm.__class__))
    made._replayed_answer = answer
    return made


def _copied(lm: Any, cls: type) -> Any:
    made = copy.copy(lm)
    for name in ("forward", "aforward"):
        vars(made).pop(name, None)
    made.__class__ = cls
    made.history, made.num_retries = [], 0
    return made


@functools.lru_cache(maxsize=128)
def _with_engine(cls: Any) -> Any:
    """Return *cls*, or, where it answers by its own `forward`, a class that is like it and asks its engine."""
    base = next((each for each in (dspy.LM, _DUMMY) if issubclass(cls, each)), None)
    if base is None or (cls.forward is base.forward and cls.aforward is base.aforward):
        return cls
    return _like(cls, forward=base.forward, aforward=base.aforward)


def _would_be_wrapped(error: BaseException | None) -> bool:
    """Return whether DSPy would make another exception of it, if an engine raised it."""
    return isinstance(error, Exception) and not isinstance(error, (dspy.LMError, ImportError, Warning))


@functools.lru_cache(maxsize=128)
def _raising(cls: Any) -> Any:
    """Return a class that is like *cls* and raises when DSPy reads its retries: in the call, before any engine."""

    def num_retries(self: Any) -> int:
        raise self._replayed_answer.error

    return _like(cls, num_retries=property(num_retries))


_DUMMY: Any = dspy.utils.DummyLM


@functools.lru_cache(maxsize=128)
def _with_forward(cls: Any) -> Any:
    return _like(
        cls,
        forward_contract="legacy",
        forward=_forward,
        aforward=_aforward,
        _process_completion=_outputs,
        _process_response=_outputs,
    )


def _like(cls: type, **members: Any) -> type:
    named = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
    return type(cls.__name__, (cls,), {**members, **named})


def _forward(self: Any, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
    answer: Answer = self._replayed_answer
    if answer.error is not None:
        raise answer.error
    choices = [_Fields(finish_reason=reason, message=_Fields(content=None)) for reason in answer.finish_reasons()]
    return _Fields(model=answer.model, choices=choices, usage=None)


async def _aforward(self: Any, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
    return self.forward(prompt=prompt, messages=messages, **kwargs)


def _outputs(self: Any, response: Any, *_: Any) -> Any:
    return self._replayed_answer.outputs()


class _Fields(dict[str, Any]):
    """An OpenAI-like object: its fields are keys and attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class _Engine:
    """Gives the completions of an answer one after the other: DSPy asks once for each of `n`."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._given = 0

    def complete(self, request: Any) -> Any:
        if self._answer.error is not None:
            raise self._answer.error
        index, self._given = self._given, self._given + 1
        return self._answer.response(index)

    def stream(self, request: Any) -> Iterator[Any]:
        yield from response_to_events(self.complete(request))


class _AsyncEngine:
    def __init__(self, engine: _Engine) -> None:
        self._engine = engine

    async def complete(self, request: Any) -> Any:
        return self._engine.complete(request)

    async def stream(self, request: Any) -> AsyncIterator[Any]:
        for event in self._engine.stream(request):
            yield event
