"""Steps on what is about to leave the process: redact, shorten."""

from __future__ import annotations

from dspy_mlflow_callbacks.payload.limit import PayloadLimit
from dspy_mlflow_callbacks.payload.redactor import Redactor
from dspy_mlflow_callbacks.payload.step import Payload, PayloadStep, PayloadStepError, PayloadSteps

__all__ = ["Payload", "PayloadLimit", "PayloadStep", "PayloadStepError", "PayloadSteps", "Redactor"]
