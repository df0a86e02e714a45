"""Spans of stored traces as the store keeps them, read ten times as fast as MLflow makes objects of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import mlflow
import orjson
from mlflow import MlflowClient
from mlflow.entities import Span, Trace, TraceData, TraceInfo

from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.compare.selection import locations_of
from dspy_mlflow_callbacks.stored.search import PAGE, Search, traces


class PlainSpan:
    """A span out of its JSON.

    Args:
        said: What MLflow's `Span.to_dict()` returns.
    """

    __slots__ = ("_attributes", "end_time_ns", "fallbacks", "has_failed", "name", "parent_id", "said", "span_id",
                 "span_type", "start_time_ns")  # fmt: skip

    def __init__(self, said: Mapping[str, Any]) -> None:
        self.said = said
        self._attributes = said["attributes"]
        self.name: str = said["name"]
        self.span_id: str = said["span_id"]
        self.parent_id: str | None = said["parent_span_id"]
        self.start_time_ns: int = said["start_time_unix_nano"]
        self.end_time_ns: int | None = said["end_time_unix_nano"]
        self.has_failed = said["status"]["code"] == "STATUS_CODE_ERROR"
        self.fallbacks = sum(event["name"] == "adapter_fallback" for event in said["events"])
        self.span_type = self.get_attribute("mlflow.spanType")

    def get_attribute(self, key: str) -> Any:
        """Return an attribute's value; None where it has none."""
        text = self._attributes.get(key)
        if text is None:
            return None
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:  # Infinity, or no JSON at all
            return text


def pages(search: Search, limit: int | None) -> Iterator[list[tuple[TraceInfo, list[PlainSpan]]]]:
    """Yield the traces that a search finds, newest first, some hundred at a time; without a limit by experiment."""
    infos: list[TraceInfo] = []
    for each in [search] if limit is not None else _by_experiment(search):
        for trace in traces(each, limit=limit, with_spans=False):
            infos.append(trace.info)
            if len(infos) == PAGE:
                yield _with_spans(infos)
                infos = []
    if infos:
        yield _with_spans(infos)


def _by_experiment(search: Search) -> Iterator[Search]:
    """Yield the search for each experiment: of several, an SQL store sorts all traces again for each page."""
    for location in locations_of(MlflowClient(), search.experiments or None):
        yield attrs.evolve(search, locations=(location,))


def _with_spans(infos: list[TraceInfo]) -> list[tuple[TraceInfo, list[PlainSpan]]]:
    texts = internals.span_texts(mlflow.get_tracking_uri(), [info.trace_id for info in infos])
    return [(info, _spans_of(info, texts or {})) for info in infos]


def _spans_of(info: TraceInfo, texts: Mapping[str, list[str]]) -> list[PlainSpan]:
    if info.trace_id in texts:
        return [PlainSpan(orjson.loads(text)) for text in texts[info.trace_id]]
    trace = MlflowClient().get_trace(info.trace_id, display=False)
    return [PlainSpan(span.to_dict()) for span in trace.data.spans]


def whole_trace(info: TraceInfo, spans: list[PlainSpan]) -> Trace:
    """Return MLflow's object after all."""
    return Trace(info, TraceData([Span.from_dict(dict(span.said)) for span in spans]))
