"""`python -m dspy_mlflow_callbacks` is the command `dspy-mlflow`."""

from __future__ import annotations

from dspy_mlflow_callbacks.cli import main

main()
