"""What holds inside a `with` block, sync or async, or inside a function of any kind that is decorated with it."""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import closing
from typing import Any, Protocol, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])


class Opened(Protocol):
    """What holds, from where it is made until it is closed."""

    def close(self) -> None:
        """End it."""
        ...


class Scoped(ABC):
    """A context manager, sync and async, and a decorator; in many threads at once, and in itself, if you like.

    Attributes:
        called: What a message calls it.
    """

    called = "this"

    def __init__(self) -> None:
        self._open: list[Any] = []

    @abstractmethod
    def _begun(self) -> Opened:
        """Open it."""
        ...

    def _resumed(self) -> Opened:
        """Open it for a further step of a generator."""
        return self._begun()

    def _innermost(self) -> Opened:
        """Return which of those that are open was opened last here."""
        opened: Opened = self._open[-1]
        return opened

    def __enter__(self) -> None:
        self._open.append(self._begun())

    def __exit__(self, *_: object) -> None:
        opened = self._innermost()
        self._open.remove(opened)
        opened.close()

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()

    def __call__(self, function: Function) -> Function:
        """Return *function* so that it runs in the scope; a generator function's steps do, and not their consumer.

        Raises:
            TypeError: if *function* is no function, or a class.
        """
        if not callable(function) or isinstance(function, type):
            message = f"{self.called} decorates functions, got {function!r}"
            raise TypeError(message)
        wrapper: Any = functools.wraps(function)(self._wrapper_of(function))
        return cast("Function", wrapper)

    def _wrapper_of(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.isasyncgenfunction(function):
            return self._in_async_steps(function)
        if inspect.isgeneratorfunction(function):
            return self._in_steps(function)
        if inspect.iscoroutinefunction(function):

            async def run_async(*args: Any, **kwargs: Any) -> Any:
                return await self._awaited(function(*args, **kwargs))

            return run_async

        def run(*args: Any, **kwargs: Any) -> Any:
            with closing(self._begun()):
                result = function(*args, **kwargs)
            return self._in_scope(result)

        return run

    def _in_scope(self, result: Any) -> Any:
        """Return what a function returned; what it only began, a stream or a coroutine, goes on in the scope."""
        if inspect.isasyncgen(result):
            return self._in_async_steps(lambda: result)()
        if inspect.isgenerator(result):
            return self._in_steps(lambda: result)()
        if inspect.iscoroutine(result):
            return self._awaited(result)
        return result

    async def _awaited(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        with closing(self._begun()):
            return await coroutine

    def _in_steps(self, function: Callable[..., Generator[Any, Any, Any]]) -> Callable[..., Generator[Any, Any, Any]]:
        def steps(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            generator = function(*args, **kwargs)
            resume, opened = generator.__next__, self._begun
            while True:
                try:
                    with closing(opened()):
                        value = resume()
                except StopIteration as end:
                    return end.value
                opened = self._resumed
                try:
                    resume = functools.partial(generator.send, (yield value))
                except GeneratorExit:
                    with closing(opened()):
                        generator.close()
                    raise
                except BaseException as error:  # noqa: BLE001  (the consumer's: the generator's own to handle)
                    resume = functools.partial(generator.throw, error)

        return steps

    def _in_async_steps(
        self, function: Callable[..., AsyncGenerator[Any, Any]]
    ) -> Callable[..., AsyncGenerator[Any, Any]]:
        async def steps(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
            generator = function(*args, **kwargs)
            resume, opened = generator.__anext__, self._begun
            while True:
                try:
                    with closing(opened()):
                        value = await resume()
                except StopAsyncIteration:
                    return
                opened = self._resumed
                try:
                    resume = functools.partial(generator.asend, (yield value))
                except GeneratorExit:
                    with closing(opened()):
                        await generator.aclose()
                    raise
                except BaseException as error:  # noqa: BLE001  (the consumer's: the generator's own to handle)
                    resume = functools.partial(generator.athrow, error)

        return steps
