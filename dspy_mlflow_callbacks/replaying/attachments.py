"""Images and other binary data of a trace: in the spans stand references, the artifact store has the bytes."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import mlflow
from mlflow.entities import Trace

REFERENCE = "mlflow-attachment://"


def with_attachments(trace: Trace, spooled: Mapping[str, Any]) -> Callable[[Any], Any]:
    """Return what puts the bytes of *trace*'s attachments into a payload, as data URIs, where they can be read.

    A reference stays where the artifact store does not have it or is away.

    Args:
        trace: The trace.
        spooled: Attachments by id that wait with the trace in a spool.
    """
    location = trace.info.tags.get("mlflow.artifactLocation")

    def read(reference: str) -> str:
        waiting = spooled.get(urlsplit(reference).netloc)
        if waiting is not None:
            return _as_uri(waiting.content_type, waiting.content_bytes)
        return _data_uri(location, reference) or reference

    return lambda payload: _read_all(payload, read)


def is_reference(value: Any) -> bool:
    """Return whether *value* refers to an attachment."""
    return isinstance(value, str) and value.startswith(REFERENCE)


def _read_all(payload: Any, read: Callable[[str], str]) -> Any:
    if isinstance(payload, dict):
        if payload.keys() == {"data", "format"} and is_reference(payload["data"]):
            # OpenAI's audio part has its data without a URI around it.
            return {**payload, "data": read(payload["data"]).rpartition(";base64,")[2]}
        return {name: _read_all(value, read) for name, value in payload.items()}
    if isinstance(payload, list):
        return [_read_all(value, read) for value in payload]
    return read(payload) if is_reference(payload) else payload


def _data_uri(location: str | None, reference: str) -> str | None:
    parts = urlsplit(reference)
    content_type = parse_qs(parts.query).get("content_type", ["application/octet-stream"])[0]
    try:
        file = mlflow.artifacts.download_artifacts(artifact_uri=f"{location}/attachments/{parts.netloc}")
        data = Path(file).read_bytes()
    except Exception:  # noqa: BLE001  (whatever a store raises: the payload keeps its reference)
        return None
    return _as_uri(content_type, data)


def _as_uri(content_type: str, data: bytes) -> str:
    return f"data:{content_type};base64,{base64.b64encode(data).decode()}"
