"""The exporter process: writes to an SQL store what a program hands it over a pipe (`python -m …export.process`).

A thread that writes holds the program's interpreter lock for milliseconds a trace; this process has its own. It ends
with its program: when the pipe does, or when it finds itself with another parent.
"""

from __future__ import annotations

import os
import select
import sys
from typing import Any

from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.export.errors import StoreAwayError, failure
from dspy_mlflow_callbacks.export.frames import packed, read_frame
from dspy_mlflow_callbacks.export.otlp_reader import spans_of
from dspy_mlflow_callbacks.export.tracking_store import write_to_database
from dspy_mlflow_callbacks.export.waiting import Destination

_LOOK_AFTER_PARENT_SECONDS = 5.0


class Pipes:
    """The two ways to the program: what it asks for, and what it is answered."""

    def __init__(self) -> None:
        self._in = os.dup(sys.stdin.fileno())
        self._out = os.dup(sys.stdout.fileno())
        self._parent = os.getppid()
        # Whatever prints in this process would break the frames.
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, sys.stdin.fileno())
        os.dup2(nowhere, sys.stdout.fileno())

    def read(self, size: int) -> bytes:
        """Return up to *size* bytes; none when the program has ended."""
        while not select.select([self._in], [], [], _LOOK_AFTER_PARENT_SECONDS)[0]:
            if os.getppid() != self._parent:  # and somebody else, a fork of it, holds the pipe open
                return b""
        return os.read(self._in, size)

    def answer(self, header: dict[str, Any]) -> None:
        """Send an answer."""
        data = packed(header)
        while data:
            data = data[os.write(self._out, data) :]


def main() -> None:
    """Store batch after batch, and answer each, until the program ends."""
    pipes = Pipes()
    internals.leave_litellm_out()  # it takes seconds to import, and here only to price what DSPy could not
    try:
        while (frame := read_frame(pipes.read)) is not None:
            pipes.answer(_answer(*frame))
    except BrokenPipeError:
        pass  # the program is gone, and needs no answer


def _answer(header: dict[str, Any], body: bytes) -> dict[str, Any]:
    try:
        refused = _obey(header, body)
    except Exception as error:  # noqa: BLE001  (told to the program)
        return {"number": header["number"], **_told(failure(error))}
    return {"number": header["number"], "outcome": "stored", "refused_feedback": refused}


def _obey(header: dict[str, Any], body: bytes) -> str | None:
    if "open" in header:
        internals.open_store(header["open"])
        return None
    destination = Destination(**header["destination"])
    feedback = [internals.Feedback(**each) for each in header["feedback"]]
    what = (destination, header["trace_ids"], spans_of(body), feedback)
    refused: str | None = internals.in_workspace(destination.workspace, write_to_database, *what)
    return refused


def _told(reason: Exception) -> dict[str, Any]:
    kind = "away" if isinstance(reason, StoreAwayError) else "refused"
    return {"outcome": kind, "reason": str(reason), **vars(reason)}


if __name__ == "__main__":
    main()
