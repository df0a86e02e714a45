"""What is done with a whole program: giving it a callback of its own, saving it with its tracing, loading it."""

from __future__ import annotations

from dspy_mlflow_callbacks.programs.attaching import attach, detach
from dspy_mlflow_callbacks.programs.models import load_model, log_model, save_model
from dspy_mlflow_callbacks.programs.saving import load_program, save_program

__all__ = ["attach", "detach", "load_model", "load_program", "log_model", "save_model", "save_program"]
