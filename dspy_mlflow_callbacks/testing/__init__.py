"""What this package tests with, for your tests too.

With pytest: the fixtures `dspy_traces` and `dspy_replay` and the marker `dspy_trace`, see `plugin`. Without:
`capture_traces`, `replay_lms` and `SpendingLimits`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dspy_mlflow_callbacks.testing.answering import RecordedAnswers, UnrecordedCallError, replay_lms
    from dspy_mlflow_callbacks.testing.capture import capture_traces
    from dspy_mlflow_callbacks.testing.captured import CapturedTraces
    from dspy_mlflow_callbacks.testing.limits import SpendingLimits

__all__ = [
    "RECORD_MODES",
    "CapturedTraces",
    "RecordedAnswers",
    "SpendingLimits",
    "UnrecordedCallError",
    "capture_traces",
    "replay_lms",
]

RECORD_MODES = ("none", "once", "new", "all")
"""What `replay_lms` and `--dspy-record-mode` may record."""

# pytest loads `plugin` in every project, and with it this file: dspy and mlflow take seconds to import.
_FILE_OF = {
    "CapturedTraces": "captured",
    "RecordedAnswers": "answering",
    "SpendingLimits": "limits",
    "UnrecordedCallError": "answering",
    "capture_traces": "capture",
    "replay_lms": "answering",
}


def __getattr__(name: str) -> Any:
    if name in _FILE_OF:
        return getattr(importlib.import_module(f"{__name__}.{_FILE_OF[name]}"), name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
