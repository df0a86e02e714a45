"""From a trace that waits to a row of the spool, and back."""

from __future__ import annotations

import base64
from typing import Any

import attrs
import orjson
from mlflow.entities import TraceInfo
from mlflow.entities.model_registry import PromptVersion

from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.export.batch import Entry
from dspy_mlflow_callbacks.export.otlp import request_of_values
from dspy_mlflow_callbacks.export.otlp_reader import spans_of, spans_of_values
from dspy_mlflow_callbacks.export.packing import is_server
from dspy_mlflow_callbacks.export.spool.destinations import as_text, from_text
from dspy_mlflow_callbacks.export.spool.errors import SpoolError
from dspy_mlflow_callbacks.export.spool.tables import Row
from dspy_mlflow_callbacks.export.waiting import Destination, Outcome, Prepared


@attrs.frozen
class SpooledAttachment:
    """Binary content, as MLflow's `Attachment` has it.

    Attributes:
        content_type: Its MIME type.
        content_bytes: The content.
    """

    content_type: str
    content_bytes: bytes = attrs.field(repr=False)


@attrs.frozen(eq=False)
class SpooledTrace:
    """A trace out of the spool, on its way to its store.

    Attributes:
        row: As the spool keeps it.
        destination: Where it goes.
    """

    row: Row
    destination: Destination

    @property
    def size(self) -> int:
        """How many bytes it holds."""
        return self.row.size

    def prepared(self) -> Prepared:
        """Return what leaves; the payload steps have run before it came to the spool.

        Raises:
            SpoolError: if it cannot be read.
        """
        try:
            return _prepared(self.row)
        except Exception as error:  # whatever bytes that are no trace make of it
            message = f"a trace cannot be read: {error!r}"
            raise SpoolError(message) from error

    def done(self, outcome: Outcome, error: Exception | None = None) -> None:
        """Hear what became of it; the spool knows."""


def row_of(entry: Entry, now: float) -> Row:
    """Return a prepared trace as a row.

    Args:
        entry: The trace.
        now: The time, in seconds since 1970.

    Raises:
        SpoolError: if it cannot wait in a spool.
    """
    destination = entry.trace.destination
    return Row(
        trace_id=entry.leaves.trace_id,
        destination=as_text(destination),
        ended=now,
        spans=entry.spans,
        request=_request(entry, destination),
        extra=_extra(entry.leaves),
    )


def entry_of(row: Row) -> Entry:
    """Return a row as a trace that can be sent.

    Raises:
        SpoolError: if it cannot be read.
    """
    trace = SpooledTrace(row, from_text(row.destination))
    prepared = trace.prepared()
    entry = Entry(row.id, trace, trace.size, prepared, row=row.id)
    if is_server(trace.destination):
        entry.body, entry.packed, entry.prepared = row.request, row.spans, attrs.evolve(prepared, spans=())
    return entry


def info_of(row: Row) -> Any:
    """Return MLflow's `TraceInfo` that a row has beside its spans; None if it has none."""
    info = orjson.loads(row.extra).get("info")
    return None if info is None else TraceInfo.from_dict(info)


def _request(entry: Entry, destination: Destination) -> bytes:
    if entry.body is None:
        return request_of_values(entry.leaves.spans)
    return entry.body if is_server(destination) else request_of_values(spans_of(entry.body))


def _extra(leaves: Prepared) -> str:
    """Return what a trace has beside its spans."""
    said = {
        "info": None if leaves.info is None else leaves.info.to_dict(),
        "attachments": {
            id_: {"content_type": each.content_type, "content": base64.b64encode(each.content_bytes).decode()}
            for id_, each in leaves.attachments.items()
        },
        "prompts": [{"name": each.name, "version": each.version} for each in leaves.prompts],
        "feedback": [attrs.asdict(each) for each in leaves.feedback],
        "is_shared": leaves.is_shared,
    }
    return orjson.dumps({name: value for name, value in said.items() if value}).decode()


def _prepared(row: Row) -> Prepared:
    extra = orjson.loads(row.extra)
    attachments = {
        id_: SpooledAttachment(each["content_type"], base64.b64decode(each["content"]))
        for id_, each in extra.get("attachments", {}).items()
    }
    return Prepared(
        trace_id=row.trace_id,
        spans=spans_of_values(row.request),
        info=info_of(row),
        attachments=attachments,
        prompts=[PromptVersion(each["name"], each["version"], "") for each in extra.get("prompts", [])],
        feedback=[internals.Feedback(**each) for each in extra.get("feedback", [])],
        is_shared=extra.get("is_shared", False),
    )
