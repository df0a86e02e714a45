"""Traces that wait in a spool, as MLflow has them: for who reads traces and delivers none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import orjson
from mlflow.entities import Span, Trace, TraceData, TraceState

from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.export.spool.contents import SpooledTrace, info_of
from dspy_mlflow_callbacks.export.spool.destinations import from_text
from dspy_mlflow_callbacks.export.spool.errors import SpoolError
from dspy_mlflow_callbacks.export.spool.reading import rows_of
from dspy_mlflow_callbacks.export.spool.settings import SpoolSettings
from dspy_mlflow_callbacks.export.spool.tables import Row

_TAG = "mlflow.traceTag."


@attrs.frozen(kw_only=True)
class Spooled:
    """A trace that waits.

    Attributes:
        trace: MLflow's trace.
        attachments: Images and other binary data by id, which stand in its spans as references.
    """

    trace: Trace
    attachments: Mapping[str, Any]


def find(trace_id: str, settings: SpoolSettings) -> Spooled | None:
    """Return a trace that waits in a spool; None if there is none of that id, or its root has not come yet.

    Raises:
        SpoolError: if the spool cannot be read.
    """
    spans: dict[int, Any] = {}
    attachments: dict[str, Any] = {}
    rows = rows_of(settings, trace_id)
    for row in rows:
        prepared = SpooledTrace(row, from_text(row.destination)).prepared()
        spans |= {span.context.span_id: span for span in prepared.spans}
        attachments |= prepared.attachments
    roots = [span for span in spans.values() if span.parent is None or span.parent.span_id not in spans]
    if len(roots) != 1:
        return None
    info = _info(rows, roots[0])
    return Spooled(trace=Trace(info, TraceData([Span(span) for span in spans.values()])), attachments=attachments)


def _info(rows: list[Row], root: Any) -> Any:
    for row in reversed(rows):
        info = info_of(row)
        if info is not None:
            return info
    said = {key: orjson.loads(text) for key, text in root.attributes.items()}
    tags = {key.removeprefix(_TAG): str(value) for key, value in said.items() if key.startswith(_TAG)}
    metadata = {key: value for key, value in said.items() if isinstance(value, str) and key.startswith("mlflow.")}
    info = internals.new_info(rows[0].trace_id, root, from_text(rows[0].destination).experiment_id, tags, metadata)
    info.state = TraceState.from_otel_status(root.status)
    return info


__all__ = ["SpoolError", "SpoolSettings", "Spooled", "find"]
