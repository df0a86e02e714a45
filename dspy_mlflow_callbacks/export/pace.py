"""How fast the worker goes: at once when there is little, in large batches when there is much."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

import attrs

from dspy_mlflow_callbacks.export.buffer import NEVER, Buffer
from dspy_mlflow_callbacks.export.lanes import MOST_TRACES

if TYPE_CHECKING:
    from typing_extensions import Self  # needed by nobody at run time

_LINGER_SECONDS = 0.05
_LONG_LINGER_SECONDS = 0.25
_MANY_TRACES = 8
_HALF_FULL = 0.5


class Work:
    """Measures what the worker does between its rests.

    Attributes:
        wall_s: How many seconds it took.
        cpu_s: How many seconds the thread ran.
        met_calls: Whether the program ended traces meanwhile.
    """

    wall_s = 0.0
    cpu_s = 0.0
    met_calls = False

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer
        self._began = self._began_cpu = 0.0
        self._puts = 0

    def __enter__(self) -> Self:
        self._puts = self._buffer.puts
        self._began, self._began_cpu = time.monotonic(), time.thread_time()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.wall_s, self.cpu_s = time.monotonic() - self._began, time.thread_time() - self._began_cpu
        self.met_calls = self._buffer.puts > self._puts


@attrs.frozen
class Pace:
    """How long the worker rests after a batch.

    A thread that works holds the interpreter's lock, and the program waits. So under load it takes a *share* of the
    time, the less the emptier the buffer is, and lets traces gather. A program that ends no traces meanwhile has no
    use for rests, and who flushes has none.

    Attributes:
        share: The share of the time, from 0 to 1, in which the worker may run.
        most: The most traces in a batch, while the program ends traces.
        waits_s: For how many seconds a batch waits for somebody who stores it better, while the program ends traces;
            then it is asked again whether it waits.
    """

    share: float
    most: int
    waits_s: float = 0.0

    def waits(self, buffer: Buffer) -> bool:
        """Return whether nothing is stored now."""
        return self.waits_s > 0 and buffer.fill < _HALF_FULL

    def rest(self, buffer: Buffer, work: Work, delivered: int, left: int) -> None:
        """Rest after a piece of work.

        Args:
            buffer: Where traces gather; full, or waited for, it ends the rest.
            work: What was done.
            delivered: How many traces it was about.
            left: How many traces the worker has still.
        """
        if left and not work.met_calls:
            return
        pause = work.cpu_s / self.share - work.wall_s
        if pause > 0:
            buffer.wait(NEVER, pause * max(0.0, 1 - buffer.fill / _HALF_FULL))
        linger = _LONG_LINGER_SECONDS if delivered >= _MANY_TRACES else _LINGER_SECONDS
        if left < MOST_TRACES:
            buffer.wait(MOST_TRACES - left, linger)
