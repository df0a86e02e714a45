"""Errors of a run, and what is said of the trace in which an input failed."""

from __future__ import annotations

import functools
from typing import Any


class InputTimeoutError(TimeoutError):
    """An input took longer than `timeout` seconds, all its attempts together.

    Attributes:
        input_id: The input's id.
        timeout: Seconds.
    """

    def __init__(self, input_id: str, timeout: float | None) -> None:
        super().__init__(input_id, timeout)
        self.input_id = input_id
        self.timeout = timeout

    def __str__(self) -> str:
        return f"input {self.input_id} took longer than {self.timeout:g} s"


class RemoteError(Exception):
    """What another process raised and cannot be sent as it is, or returned and cannot be sent: its type and message."""


class RemoteTraceback(Exception):  # noqa: N818  (no error: the cause of one, so that it is printed above it)
    """The traceback of an error that another process raised, as text."""

    def __init__(self, text: str) -> None:
        super().__init__(f"in another process:\n\n{text}")


class TraceNote(Exception):  # noqa: N818  (no error: the cause of one, so that it is printed above it)
    """Where the trace of an error is, on Python 3.10, which has no notes on exceptions."""


class RunStoppedError(Exception):
    """What the span of a run says that did not come to its end."""


def add_note(error: BaseException, text: str) -> None:
    """Add a line to an exception that its traceback shows."""
    add: Any = getattr(error, "add_note", None) or functools.partial(say_in_chain, error)
    add(text)


def say_in_chain(error: BaseException, text: str) -> None:
    """Let a text stand in the traceback where Python has no notes: as the first cause of all."""
    error.__notes__ = [*getattr(error, "__notes__", ()), text]  # type: ignore[attr-defined, unused-ignore]
    first, seen = error, {id(error)}
    while (before := _before(first)) is not None and id(before) not in seen:
        seen.add(id(before))
        first = before
    if not isinstance(first, TraceNote):
        first.__cause__ = TraceNote(text)


def _before(error: BaseException) -> BaseException | None:
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)
