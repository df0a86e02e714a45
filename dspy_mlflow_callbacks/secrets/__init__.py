"""What a secret looks like: the names it stands under, and its own shape in a text."""

from __future__ import annotations

from typing import Any

from dspy_mlflow_callbacks.secrets.finder import Secrets
from dspy_mlflow_callbacks.secrets.names import is_secret_name
from dspy_mlflow_callbacks.secrets.shapes import REDACTED

__all__ = ["REDACTED", "Secrets", "is_secret_name", "without_secrets"]

CREDENTIALS = Secrets()


def without_secrets(value: Any) -> Any:
    """Return a JSON value without credentials at any depth."""
    return CREDENTIALS.without_secrets(value)
