"""Traces that wait as bytes.

Under load traces wait for a second or more. As spans they are some hundred objects each, which outlive the garbage
collector's young generations: then it goes through the whole program's memory, for a third of a second each time. As
one text of bytes they are nothing to it, and take a third of the room.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import attrs

from dspy_mlflow_callbacks.export.batch import Batch, Entry
from dspy_mlflow_callbacks.export.otlp import request_of_texts, request_of_values
from dspy_mlflow_callbacks.export.otlp_reader import spans_of
from dspy_mlflow_callbacks.export.waiting import Destination


def is_server(destination: Destination) -> bool:
    """Return whether traces go to a tracking server."""
    return destination.tracking_uri.startswith(("http://", "https://"))


def pack(entry: Entry, destination: Destination) -> None:
    """Let a prepared trace wait as the bytes that it is sent as; one with more to it than spans stays as it is."""
    if entry.body is None and entry.is_plain:
        entry.body, entry.packed = _encoder(destination)(entry.leaves.spans), entry.spans
        entry.prepared = attrs.evolve(entry.leaves, spans=())


def request_of(batch: Batch) -> bytes:
    """Return a batch as an OTLP request; those of single traces, one after the other, are one."""
    encode = _encoder(batch.destination)
    if not any(entry.body for entry in batch.entries):
        return encode(batch.loose_spans)
    return b"".join(encode(entry.leaves.spans) if entry.body is None else entry.body for entry in batch.entries)


def spans_to_write(batch: Batch) -> list[Any]:
    """Return the spans of a batch that goes to a database."""
    packed = [span for entry in batch.entries if entry.body is not None for span in spans_of(entry.body)]
    return [*batch.loose_spans, *packed]


def _encoder(destination: Destination) -> Callable[[Iterable[Any]], bytes]:
    return request_of_values if is_server(destination) else request_of_texts
