"""The span of a whole run, which is open as long as the run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import dspy

from dspy_mlflow_callbacks.attempts import Attempt
from dspy_mlflow_callbacks.distributed.threads import Carried
from dspy_mlflow_callbacks.executor.errors import RunStoppedError


class Run(dspy.Module):
    """A run as a call of DSPy's: it begins when it is called, and ends when it is told to.

    Args:
        began: Called in the context of the call.
        ended: Waits for the end, and returns what the span says of it, or raises.
    """

    def __init__(self, began: Callable[[], object], ended: Callable[[], Mapping[str, Any]]) -> None:
        super().__init__()
        self._began = began
        self._ended = ended

    def forward(self, **_: Any) -> Mapping[str, Any]:
        """Begin, and wait for the end."""
        self._began()
        return self._ended()


class Root:
    """The call that all inputs of a run are below, in a thread of its own.

    Args:
        said: What its span shows as inputs.
        tags: Tags of its trace.
    """

    def __init__(self, said: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        self._attempt = Attempt(tags=tags, attributes=tags)
        self._has_begun, self._is_over = threading.Event(), threading.Event()
        self._summary: Mapping[str, Any] = {}
        self._error: BaseException | None = None
        self.context: Carried | None = None
        outside, module = Carried("run"), Run(self._begin, self._end)

        def call() -> None:
            with self._attempt:
                module(**said)

        self._thread = threading.Thread(
            target=self._run, args=(outside, call), name="dspy-mlflow-run-root", daemon=True
        )
        self._thread.start()
        self._has_begun.wait()

    def _run(self, outside: Carried, call: Callable[[], None]) -> None:
        try:
            outside.run(call)
        except RunStoppedError:
            pass  # for the span
        finally:
            self._has_begun.set()

    def _begin(self) -> None:
        self.context = Carried("run")
        self._has_begun.set()

    def _end(self) -> Mapping[str, Any]:
        self._is_over.wait()
        if self._error is not None:
            message = f"{type(self._error).__name__} stopped the run"
            raise RunStoppedError(message) from self._error
        return self._summary

    @property
    def trace_id(self) -> str | None:
        """MLflow's id of the trace; None if it is not recorded."""
        return self._attempt.trace_id

    def close(self, error: BaseException | None, summary: Mapping[str, Any]) -> None:
        """End the call.

        Args:
            error: What stopped the run; None if it came to its end.
            summary: What its span shows as outputs.
        """
        self._error, self._summary = error, summary
        self._is_over.set()
        self._thread.join()
