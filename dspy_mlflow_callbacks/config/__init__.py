"""What is recorded, how much of it, and where it goes: from code and from the environment."""

from __future__ import annotations

from dspy_mlflow_callbacks.config.arguments import TracingOptions
from dspy_mlflow_callbacks.config.environment import says, variable_of
from dspy_mlflow_callbacks.config.option_table import OPTIONS
from dspy_mlflow_callbacks.config.options import default_text, kept, refuse_unknown
from dspy_mlflow_callbacks.config.saved import SavedConfig, read_saved
from dspy_mlflow_callbacks.config.strictness import narrowing, stricter
from dspy_mlflow_callbacks.config.tracing_config import TracingConfig
from dspy_mlflow_callbacks.config.variables import wrong_variables
from dspy_mlflow_callbacks.config.verbosity import lets_warn, set_verbosity

__all__ = [
    "OPTIONS",
    "SavedConfig",
    "TracingConfig",
    "TracingOptions",
    "default_text",
    "kept",
    "lets_warn",
    "narrowing",
    "read_saved",
    "refuse_unknown",
    "says",
    "set_verbosity",
    "stricter",
    "variable_of",
    "wrong_variables",
]
