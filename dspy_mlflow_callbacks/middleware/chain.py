"""What a middleware is, and the one loop that runs them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

from dspy_mlflow_callbacks import checks
from dspy_mlflow_callbacks.events import CallEnd, CallStart
from dspy_mlflow_callbacks.middleware.ratio import RatioSampler
from dspy_mlflow_callbacks.middleware.rules import RuleSampler


class Middleware(Protocol):
    """A callable that is part of the middleware chain.

    It returns the call, a changed copy of it (`attrs.evolve`), or None to drop the call and
    everything below it. An object may also have `on_end(CallEnd) -> CallEnd`; an end can be
    changed but not dropped.
    """

    def __call__(self, call: CallStart, /) -> CallStart | None:
        """Return the call to record, or None to drop it."""
        ...


@runtime_checkable
class EndsCalls(Protocol):
    """A middleware that also wants to see how calls end."""

    def on_end(self, end: CallEnd, /) -> CallEnd:
        """Return the end to record."""
        ...


class MiddlewareError(Exception):
    """A middleware raised or returned something that is not a call; *step* is the culprit."""

    def __init__(self, step: object, problem: str) -> None:
        super().__init__(problem)
        self.step = step


class Chain:
    """The middleware in the order in which they were written."""

    def __init__(self, steps: Iterable[Middleware] = ()) -> None:
        # Tuples: threads iterate them without a lock.
        self.steps: tuple[Middleware, ...] = checks.callables("middleware", steps, "CallStart -> CallStart | None")
        # Not a class of the user's that derives from one: it may decide by something else.
        self._first: Any = self.steps[0] if self.steps and type(self.steps[0]) in (RatioSampler, RuleSampler) else None
        self._enders = tuple(step for step in self.steps if isinstance(step, EndsCalls))

    def __repr__(self) -> str:
        return f"Chain({list(self.steps)!r})"

    def drops(self, root_call_id: str) -> bool:
        """Return whether the chain begins with a sampler that drops the trace of this root, whatever else it is.

        It needs no more than the id, so a call that is sampled out need not be made a `CallStart`.
        """
        return self._first is not None and not self._first.may_keep(root_call_id)

    def on_start(self, call: CallStart) -> CallStart | None:
        """Run *call* through all steps; None as soon as one drops it.

        Raises:
            MiddlewareError: if a step raises or returns something else than a call or None.
        """
        for step in self.steps:
            try:
                result = step(call)
            except Exception as error:
                raise MiddlewareError(step, f"{step!r} raised {type(error).__name__}") from error
            if result is None:
                return None
            if not isinstance(result, CallStart):
                message = f"{step!r} returned {type(result).__name__}; allowed are CallStart and None"
                raise MiddlewareError(step, message)
            call = result
        return call

    def on_end(self, end: CallEnd) -> CallEnd:
        """Run *end* through the steps that have an `on_end`.

        Raises:
            MiddlewareError: if a step raises or returns something else than an end.
        """
        for step in self._enders:
            try:
                result = step.on_end(end)
            except Exception as error:
                raise MiddlewareError(step, f"{step!r}.on_end raised {type(error).__name__}") from error
            if not isinstance(result, CallEnd):
                message = f"{step!r}.on_end returned {type(result).__name__}; allowed is CallEnd"
                raise MiddlewareError(step, message)
            end = result
        return end
