"""What every span of ours says of itself, whatever engine makes it."""

from __future__ import annotations

from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.events import SpanStart

# An attribute of every span of ours: it tells them from the user's own.
CALL_ID = "dspy.call_id"

# MLflow's numbers for its log levels (mlflow.entities.SpanLogLevel, since MLflow 3.13).
_LOG_LEVELS = {"DEBUG": "10", "INFO": "20", "WARNING": "30", "ERROR": "40", "CRITICAL": "50"}

# What marks binary data in a JSON text: a data URI (RFC 2397), or OpenAI's audio part.
_DATA_URI, _AUDIO = ";base64,", '"input_audio"'


def opening_attributes(call_id: str, start: SpanStart) -> dict[str, str]:
    """Return the attributes of a span as it opens, without its inputs."""
    attributes = start.all_attributes()
    attributes[CALL_ID] = f'"{call_id}"'
    level = _LOG_LEVELS[start.level] if start.level is not None else internals.default_level(start.span_type)
    if level is not None:  # pragma: no branch  (None before MLflow 3.13: `make test-oldest`)
        attributes[internals.LOG_LEVEL] = level
    return attributes


def has_binary(payload: str) -> bool:
    """Return whether a payload may hold binary data, which MLflow moves to attachments."""
    return _DATA_URI in payload or _AUDIO in payload
