"""What stops a replay."""

from __future__ import annotations

from collections.abc import Iterable


class ReplayError(Exception):
    """A trace cannot be replayed. Nothing has run; the message says why, and what to do.

    Attributes:
        reasons: Each thing that stands in the way, with what to do about it.
    """

    def __init__(self, trace_id: str, reasons: Iterable[str]) -> None:
        self.reasons = tuple(reasons)
        first = f"Trace {trace_id} cannot be replayed:"
        super().__init__("\n- ".join([first, *self.reasons]) if len(self.reasons) > 1 else f"{first} {self.reasons[0]}")


class ReplayStopped(BaseException):
    """Ends a replay in the middle of the program, which must not catch it as one of its own errors."""
