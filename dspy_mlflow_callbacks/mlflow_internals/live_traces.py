"""Traces that MLflow has in memory: how one of ours gets among them when somebody looks at it, and leaves again."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

from mlflow.entities import Trace, TraceData, TraceInfo, TraceLocation, TraceState
from mlflow.entities.span import LiveSpan, Span
from mlflow.pyfunc.context import get_prediction_context
from mlflow.tracing.constant import (
    TRACE_SCHEMA_VERSION,
    TRACE_SCHEMA_VERSION_KEY,
    SpanAttributeKey,
    TraceMetadataKey,
    TraceTagKey,
)
from mlflow.tracing.display import get_display_handler
from mlflow.tracing.display.display_handler import is_trace_ui_available
from mlflow.tracing.fluent import _EVAL_REQUEST_ID_TO_TRACE_ID, _set_last_active_trace_id
from mlflow.tracing.trace_manager import InMemoryTraceManager
from mlflow.tracing.utils import (
    add_size_stats_to_trace_metadata,
    maybe_get_dependencies_schemas,
    maybe_get_logged_model_id,
    maybe_get_request_id,
)
from mlflow.tracing.utils.truncation import set_request_response_preview
from mlflow.tracking.fluent import _get_active_model_id_global
from mlflow.utils.workspace_context import get_request_workspace

Texts = dict[str, str]

_TAG_PREFIX = getattr(
    SpanAttributeKey, "TRACE_TAG_PREFIX", ""
)  # where there is none, `recorders` does not find any of this
SESSION, USER = TraceMetadataKey.TRACE_SESSION, TraceMetadataKey.TRACE_USER

# Metadata of a trace of which the store makes metadata again, by the attribute of the root that says it; what the root
# says by the same name; and what it does not say.
_ATTRIBUTES = {SESSION: "session.id", USER: "user.id"}
_NOT_CARRIED = frozenset({TRACE_SCHEMA_VERSION_KEY})
_SAID = _ATTRIBUTES.keys() | _NOT_CARRIED | {TraceMetadataKey.SOURCE_RUN}

workspace = get_request_workspace
set_last_active_trace_id = _set_last_active_trace_id


def surroundings() -> tuple[Texts, Texts]:
    """Return the tags and metadata of a trace that begins here inside a model's prediction, an evaluation or a model.

    As `BaseMlflowSpanProcessor._get_basic_trace_tags` and `_get_basic_trace_metadata` have them.
    """
    model_id = _get_active_model_id_global()
    if get_prediction_context() is None:
        return {}, {} if model_id is None else {TraceMetadataKey.MODEL_ID: model_id}
    tags = dict(maybe_get_dependencies_schemas() or {})
    request_id = maybe_get_request_id(is_evaluate=True)
    if request_id:
        tags[TraceTagKey.EVAL_REQUEST_ID] = request_id
    model_id = model_id or maybe_get_logged_model_id()
    return tags, {TraceMetadataKey.MODEL_ID: model_id} if model_id else {}


def source_metadata(processor: Any) -> Mapping[str, str]:
    """Return what MLflow says of the process in every trace's metadata: user, source, version control."""
    metadata: Mapping[str, str] = processor._env_metadata
    return metadata


def new_info(trace_id: str, root: Any, experiment_id: str, tags: Texts, metadata: Texts) -> TraceInfo:
    """Return what MLflow's processor would register for a trace that begins with *root*.

    Args:
        trace_id: MLflow's id of the trace.
        root: The root span.
        experiment_id: The experiment.
        tags: Those of the trace.
        metadata: That of the trace.
    """
    return TraceInfo(
        trace_id=trace_id,
        trace_location=TraceLocation.from_experiment_id(experiment_id),
        request_time=root.start_time // 1_000_000,
        execution_duration=None,
        state=TraceState.IN_PROGRESS,
        trace_metadata={**metadata, TRACE_SCHEMA_VERSION_KEY: str(TRACE_SCHEMA_VERSION)},
        tags={**tags, TraceTagKey.TRACE_NAME: root.name},
    )


def register_trace(otel_trace_id: int, info: TraceInfo, *, is_remote: bool) -> Any:
    """Put a trace among those that MLflow has in memory, and return MLflow's entry of it."""
    manager = InMemoryTraceManager.get_instance()
    manager.register_trace(otel_trace_id, info, is_remote_trace=is_remote)
    return manager._traces[info.trace_id]


def trace_entry(otel_trace_id: int) -> Any:
    """Return MLflow's entry of a trace that it has in memory; None if it has none."""
    manager = InMemoryTraceManager.get_instance()
    return manager._traces.get(manager._otel_id_to_mlflow_trace_id.get(otel_trace_id))


def register_span(span: Any, entry: Any) -> None:
    """Make *span*, which is OpenTelemetry's, a live span of MLflow's in a trace that MLflow has an entry of."""
    live = LiveSpan(span, entry.info.trace_id, json.loads(span.attributes["mlflow.spanType"]))
    with InMemoryTraceManager.get_instance()._lock:
        entry.span_dict[live.span_id] = live


def is_in_memory(entry: Any) -> bool:
    """Return whether MLflow still has a trace in memory: it has room for 1,000, and keeps them for an hour."""
    return InMemoryTraceManager.get_instance()._traces.get(entry.info.trace_id) is entry


def put_back(otel_trace_id: int, entry: Any) -> None:
    """Put a trace that MLflow has put out of its memory, or stored, back there."""
    manager = InMemoryTraceManager.get_instance()
    with manager._lock:
        manager._traces[entry.info.trace_id] = entry
        manager._otel_id_to_mlflow_trace_id[otel_trace_id] = entry.info.trace_id


def has_open_spans(entry: Any) -> bool:
    """Return whether any span of a trace has not ended."""
    with InMemoryTraceManager.get_instance()._lock:
        return any(span.end_time_ns is None for span in entry.span_dict.values())


def export_if_held_back(entry: Any, processor: Any) -> None:
    """Have MLflow store a trace whose root has ended before a span that is none of MLflow's own.

    MLflow holds it back until it stores something else.
    """
    roots = [span for span in list(entry.span_dict.values()) if span.parent_id is None]
    if roots and roots[0].end_time_ns is not None:
        processor.span_exporter.export(())


def forget_trace(otel_trace_id: int, entry: Any) -> None:
    """Take a trace out of those that MLflow has in memory."""
    manager = InMemoryTraceManager.get_instance()
    with manager._lock:
        manager._otel_id_to_mlflow_trace_id.pop(otel_trace_id, None)
        manager._traces.pop(entry.info.trace_id, None)


def others_spans(entry: Any, span_class: type) -> list[Any]:
    """Return MLflow's spans of a trace which are not of *span_class*, as they are now, as ended or running ones."""
    with InMemoryTraceManager.get_instance()._lock:
        spans = list(entry.span_dict.values())
    return [span for span in spans if not isinstance(span._span, span_class)]


def otel_span(span: Any) -> Any:
    """Return OpenTelemetry's span inside one of MLflow's."""
    return span._span


def attachments_of(entry: Any) -> dict[str, Any]:
    """Return the binary content of all spans of a trace by attachment id."""
    attachments: dict[str, Any] = {}
    for span in list(entry.span_dict.values()):
        attachments.update(span._attachments)
    return attachments


def is_said_by_spans(metadata: Mapping[str, str], processor: Any) -> bool:
    """Return whether all of a trace's metadata can be said by spans, so that the store needs no `start_trace`.

    Spans carry tags, session and user; previews, times, state, tokens and cost are derived of them. What they say of
    the process is what MLflow knows of it: whoever sets a source of their own means the trace's metadata.
    """
    of_process = source_metadata(processor)
    return all(key in _SAID or of_process.get(key) == text for key, text in metadata.items())


def is_plain(entry: Any) -> bool:
    """Return whether a trace that was looked at has nothing which spans cannot say, its metadata apart."""
    info = entry.info
    return (
        not info.client_request_id
        and not info.request_preview
        and not info.response_preview
        and not info.assessments
        and info.state is TraceState.IN_PROGRESS
        and not entry.prompts
        and not attachments_of(entry)
    )


def attributes_of_trace(name: str, tags: Mapping[str, str], metadata: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the attributes of a root with which it says what is known of its trace, as JSON texts by name.

    The store makes tags of those that begin with `mlflow.traceTag.`, and session and user of the other two. What
    MLflow's exporter says in metadata of process and run stays an attribute of the root, by the same name: a tag would
    cost the store 0.1 ms each.

    Args:
        name: The trace's name.
        tags: Those of the trace.
        metadata: That of the trace.
    """
    for key, text in {**tags, TraceTagKey.TRACE_NAME: name}.items():
        yield f"{_TAG_PREFIX}{key}", to_json(text)
    for key, text in metadata.items():
        if key not in _NOT_CARRIED:
            yield _ATTRIBUTES.get(key, key), to_json(text)


@functools.lru_cache(maxsize=1024)
def to_json(text: str) -> str:
    """Return a text that is met at trace after trace as JSON."""
    return json.dumps(str(text), ensure_ascii=False)


def complete_info(info: TraceInfo, root: Any, spans: Iterable[Any], processor: Any) -> None:
    """Say in *info* what MLflow says when a trace has ended: times, state, tokens, previews, size."""
    mlflow_spans = [Span(span) for span in spans]
    by_id = {span.span_id: span for span in mlflow_spans}
    processor._update_trace_info(SimpleNamespace(info=info, span_dict=by_id), root)
    trace = Trace(info, TraceData(mlflow_spans))
    set_request_response_preview(info, trace.data)
    add_size_stats_to_trace_metadata(trace)


def note_evaluated(tags: Mapping[str, str], trace_id: str) -> bool:
    """Tell MLflow's evaluation which trace a request became; return whether it expects it to be stored at once."""
    if get_prediction_context() is None:
        return False
    request_id = tags.get(TraceTagKey.EVAL_REQUEST_ID)
    if request_id is None:
        return maybe_get_request_id(is_evaluate=True) is not None
    _EVAL_REQUEST_ID_TO_TRACE_ID[request_id] = trace_id
    return True


def is_shown() -> bool:
    """Return whether MLflow shows ended traces here, below a notebook's cell."""
    return "IPython" in sys.modules and is_trace_ui_available()


def show(info: TraceInfo, spans: Iterable[Any]) -> None:
    """Show a trace that has ended below the notebook's cell."""
    get_display_handler().display_traces([Trace(info, TraceData([Span(span) for span in spans]))])
