"""A program over many inputs: `run`."""

from dspy_mlflow_callbacks.executor.errors import InputTimeoutError
from dspy_mlflow_callbacks.executor.result import Counts, Result
from dspy_mlflow_callbacks.executor.results import Results
from dspy_mlflow_callbacks.executor.running import run

__all__ = ["Counts", "InputTimeoutError", "Result", "Results", "run"]
