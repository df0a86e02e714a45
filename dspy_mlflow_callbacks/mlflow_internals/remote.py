"""Traces to which several processes add spans: what of them MLflow has in memory, and how their totals stay whole.

MLflow's exporter ends a trace with `start_trace`. From then on the store takes tokens and cost for settled, and does
not count those of spans that another process stores later. A shared trace is therefore completed by what version 2 of
MLflow's API does at a trace's end, which says the same and settles nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from mlflow.entities import TraceInfo, TraceLocation, TraceState
from mlflow.entities.trace_status import TraceStatus
from mlflow.exceptions import MlflowException
from mlflow.tracing import provider
from mlflow.tracing.client import TracingClient
from mlflow.tracing.constant import TraceMetadataKey
from mlflow.tracing.context import _USER_TRACE_CONTEXT
from mlflow.tracing.export.mlflow_v3 import MlflowV3SpanExporter
from opentelemetry.context import Context

from dspy_mlflow_callbacks.mlflow_internals.live_traces import register_trace
from dspy_mlflow_callbacks.mlflow_internals.runs import CARRIED_EXPERIMENT, CARRIED_RUN
from dspy_mlflow_callbacks.mlflow_internals.tracers import tracer

# What the store adds up over the spans of all processes.
_ADDED_UP = frozenset({TraceMetadataKey.TOKEN_USAGE, TraceMetadataKey.COST})


def current_context() -> Context:
    """Return MLflow's context: the active span, and baggage that came with it."""
    context: Context = provider.get_context_api().get_current()
    return context


class ContextScope:
    """MLflow's context, and what a trace that begins in it belongs to, as another process or thread had them.

    Args:
        context: The context.
        run: The run, as `calling_run` returns it.
        experiment_id: The experiment.
        scope: What stands in the variable of `mlflow.tracing.context`; None leaves it as it is.
    """

    def __init__(self, context: Context, run: Any, experiment_id: str | None, scope: Any = None) -> None:
        self._api = provider.get_context_api()
        self._undo: list[tuple[Callable[[Any], object], Any]] = [
            (self._api.detach, self._api.attach(context)),
            (CARRIED_RUN.reset, CARRIED_RUN.set(run)),
            (CARRIED_EXPERIMENT.reset, CARRIED_EXPERIMENT.set(experiment_id)),
        ]
        if scope is not None:
            self._undo.append((_USER_TRACE_CONTEXT.reset, _USER_TRACE_CONTEXT.set(scope)))

    def close(self) -> None:
        """Put back what was there; a no-op in a context that never saw it."""
        for reset, token in reversed(self._undo):
            _reset(reset, token)


def _reset(reset: Callable[[Any], object], token: Any) -> None:
    with suppress(ValueError):  # opened in another context: an abandoned async generator
        reset(token)


def remote_entry(otel_trace_id: int, experiment_id: str | None) -> Any:
    """Put a trace that another process began into MLflow's memory, as one that MLflow only adds spans to."""
    location = None if experiment_id is None else TraceLocation.from_experiment_id(experiment_id)
    info = TraceInfo(
        trace_id=f"tr-{otel_trace_id:032x}",
        trace_location=location,
        request_time=None,
        state=TraceState.IN_PROGRESS,
    )
    return register_trace(otel_trace_id, info, is_remote=True)


def spans_in_memory(entry: Any) -> int:
    """Return how many spans of a trace MLflow has in memory."""
    return len(entry.span_dict)


def export_ended() -> None:
    """Let MLflow's exporter take what has ended: it needs the trace in memory for that, and not later."""
    for processor in _processors():
        processor.force_flush()


def exported(timeout_s: float) -> bool:
    """Wait until MLflow's exporter has stored what has ended; return whether it has, in time.

    `mlflow.flush_trace_async_logging()` stops its threads for that and starts others, which takes a second.
    """
    end = time.monotonic() + timeout_s
    export_ended()
    queues = [getattr(each.span_exporter, "_async_queue", None) for each in _processors()]
    return all(_is_empty(each._queue, end - time.monotonic()) for each in queues if each is not None)


def _is_empty(queue: Any, timeout_s: float) -> bool:
    with queue.all_tasks_done:
        return bool(queue.all_tasks_done.wait_for(lambda: not queue.unfinished_tasks, timeout_s))


def share(entry: Any) -> None:
    """Note that other processes add spans to a trace that MLflow has in memory."""
    if not isinstance(entry.info.trace_metadata, _OfShared):
        entry.info.trace_metadata = _OfShared(entry.info.trace_metadata)
    for processor in _processors():
        exporter: Any = getattr(processor, "span_exporter", None)
        if type(exporter) is MlflowV3SpanExporter and "_log_trace" not in vars(exporter):
            exporter._log_trace = _SharedTraces(exporter)


def is_shared(info: TraceInfo) -> bool:
    """Return whether other processes add spans to a trace."""
    return isinstance(info.trace_metadata, _OfShared)


# For how long MLflow's thread that ends a trace waits for the one that stores its spans, in seconds.
_WAITS_S = (0.0, 0.1, 0.2, 0.5, 1.0)


class _OfShared(dict[str, str]):
    """The metadata of a trace to which other processes add spans."""


class _SharedTraces:
    """Stands in for `MlflowV3SpanExporter._log_trace`, the last that MLflow does about a trace, if it is shared."""

    def __init__(self, exporter: Any) -> None:
        self._exporter = exporter
        self._original = exporter._log_trace

    def __call__(self, trace: Any, *args: Any, **kwargs: Any) -> None:
        if is_shared(trace.info) and self._exporter._store_supports_log_spans:
            exporter = _with_client(self._exporter, _Merging(self._exporter._client))
            MlflowV3SpanExporter._log_trace(exporter, trace, *args, **kwargs)
        else:
            self._original(trace, *args, **kwargs)


class _Merging:
    """MLflow's client for a store, which ends a trace without settling it."""

    def __init__(self, client: TracingClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def start_trace(self, info: TraceInfo) -> TraceInfo:
        """Add to a stored trace what is known of it as a whole."""
        # MLflow stores the spans in another of its threads, which may take a moment longer.
        is_stored = any(_has_root(self._client.store, info.trace_id, after_s) for after_s in _WAITS_S)
        return merge(self._client.store, info) if is_stored else self._client.start_trace(info)


def _has_root(store: Any, trace_id: str, after_s: float) -> bool:
    time.sleep(after_s)
    try:
        return store.get_trace_info(trace_id).state is not TraceState.IN_PROGRESS
    except MlflowException:  # it has no span of the trace
        return False


def _with_client(exporter: Any, client: Any) -> Any:
    copied = object.__new__(type(exporter))
    copied.__dict__.update(vars(exporter), _client=client)
    return copied


def merge(store: Any, info: TraceInfo) -> TraceInfo:
    """Add what is known of a stored trace as a whole, and leave its totals to the store."""
    stored = store.get_trace_info(info.trace_id)
    end_trace = getattr(store, "deprecated_end_trace_v2", None)
    if end_trace is None or not _fits(info, stored):
        return store.start_trace(info)
    end_trace(
        request_id=info.trace_id,
        timestamp_ms=max(_end_of(info), _end_of(stored)),
        status=TraceStatus.from_state(info.state),
        request_metadata={key: text for key, text in info.trace_metadata.items() if key not in _ADDED_UP},
        tags=dict(info.tags),
    )
    return store.get_trace_info(info.trace_id)


def _fits(info: TraceInfo, stored: TraceInfo) -> bool:
    """Return whether a trace says nothing which only `start_trace` can say: that of the user's own is worth more."""
    previews = (info.request_preview, info.response_preview)
    return (
        not info.client_request_id
        and not info.assessments
        and all(own in (None, known) for own, known in zip(previews, _previews(stored), strict=True))
    )


def _previews(info: TraceInfo) -> tuple[str | None, str | None]:
    return info.request_preview, info.response_preview


def _end_of(info: TraceInfo) -> int:
    return int(info.request_time or 0) + int(info.execution_duration or 0)


def _processors() -> Sequence[Any]:
    processors: Sequence[Any]
    processors = getattr(getattr(tracer().provider, "_active_span_processor", None), "_span_processors", ())
    return processors
