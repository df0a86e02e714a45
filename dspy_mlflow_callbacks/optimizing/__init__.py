"""A compile in summary: its trials, and what it spent, without a span for every call."""

from __future__ import annotations

from dspy_mlflow_callbacks.optimizing.compiles import CompileSummary, Group
from dspy_mlflow_callbacks.optimizing.places import Place, place_of
from dspy_mlflow_callbacks.optimizing.spending import amount_of
from dspy_mlflow_callbacks.optimizing.trials import Trial

__all__ = ["CompileSummary", "Group", "Place", "Trial", "amount_of", "place_of"]
