"""A call of a program that an executor makes: what its span says besides, and what is learned of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from typing import Any

from typing_extensions import Self

from dspy_mlflow_callbacks.events import EMPTY, CallKind
from dspy_mlflow_callbacks.optimizing.spending import Spending

_MODULE = CallKind.MODULE


class Attempt:
    """One call of a program for one input, from `with` on: the first call inside is it.

    Args:
        tags: Tags of the trace, if one begins with the call.
        attributes: Attributes of the call's span: JSON texts by name.

    Attributes:
        trace_id: MLflow's id of the trace that the call is in; None as long as nothing of it is recorded.
        spending: What its LM calls were billed, as far as they are recorded.
    """

    def __init__(self, *, tags: Mapping[str, str] = EMPTY, attributes: Mapping[str, Any] = EMPTY) -> None:
        self.tags = tags
        self.attributes = attributes
        self.trace_id: str | None = None
        self.spending = Spending()
        self._has_begun = False
        self._tokens: list[Token[Attempt | None]] = []

    def __enter__(self) -> Self:
        self._tokens.append(_CURRENT.set(self))
        return self

    def __exit__(self, *_: object) -> None:
        _CURRENT.reset(self._tokens.pop())

    def takes(self, kind: CallKind) -> bool:
        """Return whether a call that starts here is the one that this is about."""
        if self._has_begun or kind is not _MODULE:
            return False
        self._has_begun = True
        return True


_CURRENT: ContextVar[Attempt | None] = ContextVar("dspy_mlflow_callbacks_attempt", default=None)

current_attempt: Callable[[], Attempt | None] = _CURRENT.get
"""Return the attempt in which the caller runs; None where no executor runs it."""
