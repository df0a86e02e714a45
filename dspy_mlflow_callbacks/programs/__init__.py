"""What is done with a whole program: giving it a callback of its own."""

from __future__ import annotations

from dspy_mlflow_callbacks.programs.attaching import attach, detach

__all__ = ["attach", "detach"]
