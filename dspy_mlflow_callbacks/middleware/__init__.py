"""Decisions between DSPy's event and MLflow's span: keep, drop, hide, tag."""

from __future__ import annotations

from dspy_mlflow_callbacks.middleware.chain import Chain, Middleware, MiddlewareError
from dspy_mlflow_callbacks.middleware.filters import KindFilter, LevelFilter, NameFilter
from dspy_mlflow_callbacks.middleware.ratio import RatioSampler
from dspy_mlflow_callbacks.middleware.rules import RuleSampler, SamplingRule
from dspy_mlflow_callbacks.middleware.tags import TagInjector

__all__ = [
    "Chain",
    "KindFilter",
    "LevelFilter",
    "Middleware",
    "MiddlewareError",
    "NameFilter",
    "RatioSampler",
    "RuleSampler",
    "SamplingRule",
    "TagInjector",
]
