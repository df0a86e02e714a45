"""What is in force and what is wrong: versions, callbacks, engine, destination, options, counters, conflicts.

`diagnose` looks, and a `Diagnosis` says it; `dspy-mlflow doctor` prints one.
"""

from __future__ import annotations

from dspy_mlflow_callbacks.health.diagnosis import Diagnosis
from dspy_mlflow_callbacks.health.findings import Finding
from dspy_mlflow_callbacks.health.looking import diagnose

__all__ = ["Diagnosis", "Finding", "diagnose"]
