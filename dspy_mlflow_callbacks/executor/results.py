"""What `run` returns: results in the order of their inputs, as they come."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import attrs
from typing_extensions import Self

from dspy_mlflow_callbacks.executor.conduct import Conduct
from dspy_mlflow_callbacks.executor.errors import add_note
from dspy_mlflow_callbacks.executor.result import Counts, Result, result_of
from dspy_mlflow_callbacks.executor.window import Slot

MAX_ERRORS = 1_000
"""Erring results that `Results.errors` has; all are counted."""


class Results:
    """The results of a run in the order of its inputs, each as soon as it and those before it are there.

    It is an iterator, sync and async: what is handed out is let go of, so that memory stays bounded however many inputs
    there are. Work goes on while nobody asks, as far as the run's `window` reaches. Leave a run early with `close()` or
    a `with` block around it, sync or async.

    Attributes:
        name: The run's name, which its traces have as the tag `dspy.run.name`.
        errors: The first 1,000 results with an error, those that were skipped among them.
    """

    def __init__(self, conduct: Conduct, slots: Iterator[Slot]) -> None:
        self.name = conduct.name
        self.errors: list[Result] = []
        self._conduct = conduct
        self._slots = slots
        self._counts = Counts()
        self._kept: list[Result] = []
        self._left: BaseException | None = None
        self._is_exhausted = self._is_over = False
        self._abandon = weakref.finalize(self, conduct.abandon)
        self._fill()

    def __repr__(self) -> str:
        return f"Results({self.name!r}: {self.counts})"

    @property
    def trace_id(self) -> str | None:
        """MLflow's id of the run's own trace where there is one for all inputs; else None."""
        return self._conduct.trace_id

    @property
    def counts(self) -> Counts:
        """How many inputs are done so far, and what they took."""
        return attrs.evolve(self._counts)

    @property
    def done(self) -> list[Result]:
        """Results that nobody was handed out.

        What `all` had gathered when the run was stopped, by an error or by Ctrl+C, and what was done by then; in the
        order of the inputs.
        """
        return list(self._kept)

    @property
    def predictions(self) -> list[Any]:
        """All predictions that were not handed out yet, in order; where an input failed, its error stands there."""
        return [result.prediction if result.error is None else result.error for result in self.all()]

    def all(self) -> list[Result]:
        """Return all results that were not handed out yet, in order, once they are there.

        Raises:
            Exception: the first error of an input, with `on_error="raise"`; `done` has what is done.
        """
        for result in self:
            self._kept.append(result)
        return self.done

    def __iter__(self) -> Results:
        return self

    def __next__(self) -> Result:
        while not self._is_over:
            result = self._next()
            if result is not None:
                return result
        raise StopIteration

    def __aiter__(self) -> Results:
        return self

    async def __anext__(self) -> Result:
        while not self._is_over:
            self._fill()
            await asyncio.to_thread(self._conduct.window.wait)  # cancelled here, nothing is lost
            result = self._next()
            if result is not None:
                return result
        raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the run: no more input begins, those that are running end, and `done` has what is done."""
        if not self._is_over:
            self._stop(None)

    def _next(self) -> Result | None:
        """Return the next result; None where it is left out, or there is none."""
        try:
            self._fill()
            if not self._conduct.window:
                self._finish()
                return None
            slot = self._conduct.window.next()
            if slot.exit is not None:
                raise slot.exit  # noqa: TRY301  (as an interruption here)
            result = self._take(slot)
        except BaseException as error:
            if not self._is_over:
                self._stop(error)
            raise
        if result.error is None or self._conduct.on_error == "keep":
            return result
        if self._conduct.on_error == "raise":
            self._stop(result.error)
            raise result.error
        return None

    def _fill(self) -> None:
        """Take inputs as far as the window reaches; an error of theirs comes after the results before it."""
        window = self._conduct.window
        while not self._is_exhausted and len(window) < self._conduct.size:
            slot = self._next_slot()
            if slot is not None:
                window.add(slot)

    def _next_slot(self) -> Slot | None:
        try:
            return next(self._slots)
        except StopIteration:
            pass
        except Exception as error:  # noqa: BLE001  (the caller's: it is raised in its place)
            self._left = error
        self._is_exhausted = True
        return None

    def _take(self, slot: Slot) -> Result:
        result = result_of(slot, self._conduct.pages, self._conduct.trace_id)
        if result.error is not None:
            if result.trace_id is not None:
                add_note(result.error, self._conduct.pages.note(result.trace_id))
            if len(self.errors) < MAX_ERRORS:
                self.errors.append(result)
        self._counts.add(result)
        self._conduct.bar.show(self._counts.in_short())
        return result

    def _finish(self) -> None:
        self._is_over = True
        self._abandon.detach()
        self._conduct.end(self._left, self._counts)
        if self._left is not None:
            raise self._left

    def _stop(self, error: BaseException | None) -> None:
        """End the run early; interrupted again, it does not wait for what is running."""
        self._is_over = True
        self._abandon.detach()
        try:
            slots: Iterable[Slot] = self._conduct.stop()
        except BaseException:
            self._gather(self._conduct.window.done())
            self._conduct.abandon()
            raise
        self._gather(slots)
        self._conduct.end(error, self._counts)

    def _gather(self, slots: Iterable[Slot]) -> None:
        self._kept += [self._take(slot) for slot in slots if slot.exit is None]
