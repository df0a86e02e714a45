"""The program's side of the exporter process: it is started, fed, asked whether it lives, and ended here."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import IO, Any, cast

import attrs

from dspy_mlflow_callbacks.export.batch import Batch
from dspy_mlflow_callbacks.export.errors import RefusedError, StoreAwayError
from dspy_mlflow_callbacks.export.feedback import warn_not_stored
from dspy_mlflow_callbacks.export.frames import packed, read_frame
from dspy_mlflow_callbacks.export.packing import request_of

IS_EXPORTER = "_DSPY_MLFLOW_IS_EXPORTER"
"""The variable that an exporter process has: it starts no other."""

_MODULE = "dspy_mlflow_callbacks.export.process"
_AUTOLOG = "DSPY_MLFLOW_AUTOLOG"

# A database may be locked for 20 s (MLflow's busy_timeout for SQLite), and is asked more than once.
_ANSWER_SECONDS = 120.0
_END_SECONDS = 5.0


class ProcessEndedError(Exception):
    """The exporter process has ended, or does not answer: what it has not acknowledged is still to be stored."""


def can_start() -> bool:
    """Return whether this program can have an exporter process."""
    is_python = bool(sys.executable) and not getattr(sys, "frozen", False)
    return os.name == "posix" and is_python and IS_EXPORTER not in os.environ


class ExporterProcess:
    """A process that stores batches in SQL stores.

    It is Python with this package, not a copy of the program: the program's main module is not run again. It has the
    program's folder, import path and environment, and takes some seconds to start.

    Args:
        uri: The store that it opens first.
        answer_s: How many seconds it may take over a batch.
    """

    def __init__(self, uri: str, *, answer_s: float = _ANSWER_SECONDS) -> None:
        self._answer_s = answer_s
        self._number = 0
        self._is_ready = False
        self._process = subprocess.Popen(  # noqa: S603  (this very Python)
            [sys.executable, "-m", _MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=_environment(),
            start_new_session=True,  # Ctrl-C is for the program, which then says when this one ends
        )
        os.set_blocking(self._stdin, False)
        self._send({"number": 0, "open": uri})

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def is_ready(self) -> bool:
        """Return whether it has opened the store; this does not wait.

        Raises:
            ProcessEndedError: if it could not.
        """
        if not self._is_ready and select.select([self._stdout], [], [], 0)[0]:
            _raise_unless_stored(self._answer())
            self._is_ready = True
        return self._is_ready

    def deliver(self, batch: Batch, uri: str) -> None:
        """Let it store a batch in *uri*, and wait until it has.

        Raises:
            ProcessEndedError: if it does not answer; the batch may be stored or not.
            StoreAwayError: if the batch may be stored later.
            RefusedError: if it will not be stored.
        """
        self._number += 1
        header = {
            "number": self._number,
            "destination": attrs.asdict(attrs.evolve(batch.destination, tracking_uri=uri)),
            "trace_ids": [prepared.trace_id for prepared in batch.prepared],
            "feedback": [attrs.asdict(each) for each in batch.feedback],
        }
        self._send(header, request_of(batch))
        answer = self._answer()
        _raise_unless_stored(answer)
        if answer.get("refused_feedback") is not None:
            warn_not_stored(batch.destination.tracking_uri, answer["refused_feedback"])

    def close(self) -> None:
        """End it, once it has stored what it was given; one that is not ready was given nothing."""
        if not self._is_ready:
            self.kill()
            return
        self._close_pipes()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()
        self._close_pipes()

    def disown(self) -> None:
        """Let it be the child of the process that this one is a fork of."""
        self._close_pipes()  # or it would not notice that its program ends
        self._process.returncode = 0  # nobody waits for it here

    def _close_pipes(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            cast("IO[bytes]", pipe).close()

    def _send(self, header: dict[str, Any], body: bytes = b"") -> None:
        data = memoryview(packed(header, body))
        end = time.monotonic() + self._answer_s
        while data:
            self._wait_for(end, to_write=[self._stdin])
            try:
                data = data[os.write(self._stdin, data) :]
            except OSError as error:  # the pipe is broken
                raise ProcessEndedError from error

    def _answer(self) -> dict[str, Any]:
        end = time.monotonic() + self._answer_s

        def read(size: int) -> bytes:
            self._wait_for(end, to_read=[self._stdout])
            return os.read(self._stdout, size)

        frame = read_frame(read)
        if frame is None or frame[0]["number"] != self._number:
            raise ProcessEndedError
        return frame[0]

    def _wait_for(self, end: float, *, to_read: Sequence[int] = (), to_write: Sequence[int] = ()) -> None:
        if not any(select.select(to_read, to_write, [], max(0.0, end - time.monotonic()))):
            raise ProcessEndedError

    @property
    def _stdin(self) -> int:
        return cast("IO[bytes]", self._process.stdin).fileno()

    @property
    def _stdout(self) -> int:
        return cast("IO[bytes]", self._process.stdout).fileno()


def _environment() -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name != _AUTOLOG}
    # What the program can import, the process can, installed or not; what lies in the program's folder is not meant.
    path = os.pathsep.join(each or os.getcwd() for each in sys.path)  # noqa: PTH109  (a text is wanted)
    return {**environment, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", IS_EXPORTER: "1"}


def _raise_unless_stored(answer: dict[str, Any]) -> None:
    if answer["outcome"] == "away":
        raise StoreAwayError(answer["reason"], may_be_the_batch=answer["may_be_the_batch"])
    if answer["outcome"] == "refused":
        raise RefusedError(answer["reason"], is_for_all=answer["is_for_all"])
