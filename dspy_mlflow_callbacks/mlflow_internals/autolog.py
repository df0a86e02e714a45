"""The callback of `mlflow.dspy.autolog()`, beside which each call is recorded once."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import mlflow
from mlflow.tracing.fluent import _LAST_ACTIVE_TRACE_ID_THREAD_LOCAL
from mlflow.utils.autologging_utils import get_autologging_config

from dspy_mlflow_callbacks.forks import FORKS

# What `mlflow.dspy.autolog()` records. For evaluations its callback makes runs, and these go on.
_AUTOLOG_KINDS = ("module", "lm", "adapter_format", "adapter_parse", "tool")


_AUTOLOG = FORKS.lock()


def pass_over_autolog(takes: Callable[[str, Any], bool], passed_over: Callable[[], object]) -> None:
    """Make the callback of `mlflow.dspy.autolog()` leave out calls that somebody else records; twice is once.

    It relies on that callback's `on_<kind>_start` and `_end`, which do nothing but open and close a span.

    Args:
        takes: Given a kind of call and the module, LM, … that is called, says whether somebody else records it.
        passed_over: Told of each call that is left out and would have been recorded.
    """
    with _AUTOLOG, suppress(ImportError):  # two threads that make a callback at once
        callback = importlib.import_module("mlflow.dspy.callback").MlflowCallback  # imports dspy
        if not hasattr(callback.on_module_start, "_passes_over"):
            for kind in _AUTOLOG_KINDS:
                _pass_over(callback, kind, takes, passed_over)


def _pass_over(callback: Any, kind: str, takes: Callable[[str, Any], bool], passed_over: Callable[[], object]) -> None:
    start, end = f"on_{kind}_start", f"on_{kind}_end"
    original_start, original_end = getattr(callback, start), getattr(callback, end)

    @functools.wraps(original_start)
    def on_start(self: Any, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        if not takes(kind, instance):
            original_start(self, call_id=call_id, instance=instance, inputs=inputs)
            return
        if get_autologging_config("dspy", "log_traces"):
            passed_over()
        if kind == "module":
            _LAST_ACTIVE_TRACE_ID_THREAD_LOCAL.set(None)

    @functools.wraps(original_end)
    def on_end(self: Any, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        if call_id in self._call_id_to_span:
            original_end(self, call_id=call_id, outputs=outputs, exception=exception)
        elif kind == "module" and (trace_id := mlflow.get_active_trace_id()) is not None:
            # The patched metric of `dspy.Evaluate` puts its value on the trace that ended last in its thread: a trace
            # of a program alone. Here the program's call is in the evaluation's trace, or, dropped, in none.
            _LAST_ACTIVE_TRACE_ID_THREAD_LOCAL.set(trace_id)

    on_start._passes_over = True  # type: ignore[attr-defined]  # a mark on a function
    setattr(callback, start, on_start)
    setattr(callback, end, on_end)
