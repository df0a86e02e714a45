"""A tracking store that keeps traces in memory, and makes a store in a folder only for what else it is asked for."""

from __future__ import annotations

import copy
import functools
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
from mlflow.entities import Experiment, LifecycleStage, Trace, TraceData, TraceInfo, TraceLocation, TraceState
from mlflow.entities.assessment import Assessment
from mlflow.entities.span import Span
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST
from mlflow.store.tracking.abstract_store import AbstractStore
from mlflow.tracing.constant import TraceMetadataKey, TraceTagKey
from mlflow.tracking._tracking_service import utils as tracking_service
from mlflow.utils.mlflow_tags import MLFLOW_ARTIFACT_LOCATION
from mlflow.utils.search_utils import SearchTraceUtils

SCHEME = "dspy-memory"
"""The scheme of the addresses of these stores."""

EXPERIMENT_ID, _EXPERIMENT = "0", "Default"
_IN_STORE = "TRACKING_STORE"  # `SpansLocation`: whoever reads a trace asks the store for its spans


def _delegated(name: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.rest, name)(*args, **kwargs)

    return method


# All that a store can be asked for. What `MemoryStore` does not answer itself goes to a store in a folder.
_Delegating: Any = type(
    "_Delegating",
    (AbstractStore,),
    {name: _delegated(name) for name in dir(AbstractStore) if callable(getattr(AbstractStore, name)) and name[0] != "_"}
    | {"_search_runs": _delegated("_search_runs")},
)


class _Kept:
    """A trace as it is kept."""

    def __init__(self, info: TraceInfo) -> None:
        self.info = info
        self.is_whole = False  # whether its info was given, and not made of spans
        self.spans: dict[str, Span] = {}

    def trace(self) -> Trace:
        spans = sorted(self.spans.values(), key=lambda span: span.start_time_ns)
        return Trace(copy.deepcopy(self.info), TraceData(spans))


class MemoryStore(_Delegating):
    """Keeps the traces of one experiment; runs, models and further experiments are kept in a temporary folder.

    Args:
        uri: Its address.
    """

    def __init__(self, uri: str) -> None:
        self._lock = threading.RLock()
        self._traces: dict[str, _Kept] = {}
        self._folder = Path(tempfile.gettempdir()) / f"dspy_traces_{uri.rpartition('/')[2]}"

    @functools.cached_property
    def rest(self) -> Any:
        """The store of what is not kept in memory."""
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # noqa: PLC0415  (seconds, for the few)

        self._folder.mkdir(mode=0o700, parents=True)
        return SqlAlchemyStore(f"sqlite:///{self._folder / 'mlflow.db'}", self._folder.as_uri())

    def close(self) -> None:
        """Forget everything."""
        self._traces.clear()
        if "rest" in vars(self):
            self.rest.engine.dispose()
        shutil.rmtree(self._folder, ignore_errors=True)

    def get_experiment(self, experiment_id: str) -> Experiment:
        """Return an experiment."""
        return self._experiment() if experiment_id == EXPERIMENT_ID else self.rest.get_experiment(experiment_id)

    def get_experiment_by_name(self, experiment_name: str) -> Experiment | None:
        """Return an experiment, or None."""
        is_own = experiment_name == _EXPERIMENT
        return self._experiment() if is_own else self.rest.get_experiment_by_name(experiment_name)

    def _experiment(self) -> Experiment:
        return Experiment(EXPERIMENT_ID, _EXPERIMENT, self._folder.as_uri(), LifecycleStage.ACTIVE)

    def start_trace(self, trace_info: TraceInfo) -> TraceInfo:
        """Keep what is known of a trace as a whole."""
        with self._lock:
            info = self._located(copy.deepcopy(trace_info))
            kept = self._traces.setdefault(info.trace_id, _Kept(info))
            info.assessments = [*kept.info.assessments, *info.assessments] if kept.is_whole else info.assessments
            info.tags = {**kept.info.tags, **info.tags}
            kept.info, kept.is_whole = info, True
            return copy.deepcopy(info)

    def _located(self, info: TraceInfo) -> TraceInfo:
        location = f"{self._folder.as_uri()}/traces/{info.trace_id}/artifacts"
        info.tags.update({TraceTagKey.SPANS_LOCATION: _IN_STORE, MLFLOW_ARTIFACT_LOCATION: location})
        return info

    def log_spans(self, location: str, spans: Sequence[Span], tracking_uri: str | None = None) -> Sequence[Span]:
        """Keep spans, of any number of traces; one that is there already is replaced."""
        with self._lock:
            for span in spans:
                kept = self._traces.get(span.trace_id)
                if kept is None:
                    kept = self._traces[span.trace_id] = _Kept(self._located(_info_of(location, span)))
                kept.spans[span.span_id] = span
                if not kept.is_whole:
                    _add_to_info(kept.info, span)
        return spans

    async def log_spans_async(self, location: str, spans: Sequence[Span]) -> Sequence[Span]:
        """Keep spans."""
        return self.log_spans(location, spans)

    def get_trace_info(self, trace_id: str) -> TraceInfo:
        """Return what is known of a trace as a whole."""
        with self._lock:
            return copy.deepcopy(self._kept(trace_id).info)

    def get_trace(self, trace_id: str, *, allow_partial: bool = False) -> Trace:
        """Return a trace."""
        with self._lock:
            return self._kept(trace_id).trace()

    def batch_get_traces(self, trace_ids: Iterable[str], location: str | None = None) -> list[Trace]:
        """Return those of the traces that there are."""
        with self._lock:
            return [self._traces[each].trace() for each in trace_ids if each in self._traces]

    def batch_get_trace_infos(self, trace_ids: Iterable[str], location: str | None = None) -> list[TraceInfo]:
        """Return what is known of those of the traces that there are."""
        return [trace.info for trace in self.batch_get_traces(trace_ids)]

    def search_traces(  # noqa: PLR0917  (as MLflow's stores have it)
        self,
        experiment_ids: list[str] | None = None,
        filter_string: str | None = None,
        max_results: int = 100,
        order_by: list[str] | None = None,
        page_token: str | None = None,
        model_id: str | None = None,
        locations: list[str] | None = None,
    ) -> tuple[list[TraceInfo], str | None]:
        """Return a page of the traces that match, and the token of the next; filters know no spans and feedback."""
        wanted = set(locations or experiment_ids or ())
        with self._lock:
            infos = [copy.deepcopy(kept.info) for kept in self._traces.values()]
        found = SearchTraceUtils.filter([info for info in infos if info.experiment_id in wanted], filter_string)
        page: tuple[list[TraceInfo], str | None] = SearchTraceUtils.paginate(
            SearchTraceUtils.sort(found, order_by), page_token, max_results
        )
        return page

    def set_trace_tag(self, trace_id: str, key: str, value: str) -> None:
        """Set a tag."""
        with self._lock:
            self._kept(trace_id).info.tags[key] = str(value)

    def delete_trace_tag(self, trace_id: str, key: str) -> None:
        """Delete a tag."""
        with self._lock:
            if self._kept(trace_id).info.tags.pop(key, None) is None:
                raise _not_found(kind="tag", which=f"{key} on trace {trace_id}")

    def delete_traces(
        self,
        experiment_id: str,
        max_timestamp_millis: int | None = None,
        max_traces: int | None = None,
        trace_ids: Iterable[str] | None = None,
    ) -> int:
        """Delete traces, those that began first before others, and return how many."""
        with self._lock:
            infos = [kept.info for kept in self._traces.values()]
            found = [
                info
                for info in sorted(infos, key=lambda info: info.request_time)
                if (trace_ids is None or info.trace_id in trace_ids)
                and (max_timestamp_millis is None or info.request_time <= max_timestamp_millis)
            ][:max_traces]
            for info in found:
                del self._traces[info.trace_id]
            return len(found)

    def link_traces_to_run(self, trace_ids: Iterable[str], run_id: str) -> None:
        """Say that a run made traces."""
        with self._lock:
            for trace_id in trace_ids:
                self._kept(trace_id).info.trace_metadata[TraceMetadataKey.SOURCE_RUN] = run_id

    def create_assessment(self, assessment: Assessment) -> Assessment:
        """Keep feedback or an expectation."""
        now = int(time.time() * 1000)
        assessment.assessment_id = assessment.assessment_id or f"a-{uuid.uuid4().hex}"
        assessment.create_time_ms = assessment.last_update_time_ms = now
        assessment.valid = True
        with self._lock:
            assessments = self._kept(assessment.trace_id).info.assessments
            if assessment.overrides:
                self.get_assessment(assessment.trace_id, assessment.overrides).valid = False
            assessments.append(assessment)
        return assessment

    def get_assessment(self, trace_id: str, assessment_id: str) -> Assessment:
        """Return feedback or an expectation."""
        with self._lock:
            for assessment in self._kept(trace_id).info.assessments:
                if assessment.assessment_id == assessment_id:
                    return assessment
        raise _not_found(kind="assessment", which=f"{assessment_id} on trace {trace_id}")

    def update_assessment(self, trace_id: str, assessment_id: str, **changes: Any) -> Assessment:
        """Change what is given of feedback or an expectation; metadata is added."""
        assessment = self.get_assessment(trace_id, assessment_id)
        metadata = changes.pop("metadata", None)
        for name, value in changes.items():
            if value is not None:
                setattr(assessment, name, value)
        assessment.metadata = {**(assessment.metadata or {}), **metadata} if metadata else assessment.metadata
        assessment.last_update_time_ms = int(time.time() * 1000)
        return assessment

    def delete_assessment(self, trace_id: str, assessment_id: str) -> None:
        """Delete feedback or an expectation; what it overrode holds again."""
        with self._lock:
            deleted = self.get_assessment(trace_id, assessment_id)
            if deleted.overrides:
                self.get_assessment(trace_id, deleted.overrides).valid = True
            self._kept(trace_id).info.assessments.remove(deleted)

    def _kept(self, trace_id: str) -> _Kept:
        if trace_id not in self._traces:
            raise _not_found(kind="trace", which=trace_id)
        return self._traces[trace_id]


def _not_found(*, kind: str, which: str) -> MlflowException:
    return MlflowException(f"There is no {kind} {which}.", RESOURCE_DOES_NOT_EXIST)


def _info_of(experiment_id: str, span: Span) -> TraceInfo:
    """Return what a span tells of a trace of which nothing else is known, perhaps for ever: others have its root."""
    return TraceInfo(
        trace_id=span.trace_id,
        trace_location=TraceLocation.from_experiment_id(experiment_id),
        request_time=span.start_time_ns // 1_000_000,
        state=TraceState.IN_PROGRESS,
        trace_metadata={},
        tags={},
    )


def _add_to_info(info: TraceInfo, span: Span) -> None:
    info.request_time = min(info.request_time, span.start_time_ns // 1_000_000)
    if span.parent_id is None:
        info.tags[TraceTagKey.TRACE_NAME] = span.name
        info.state = TraceState(span.status.status_code.value) if span.end_time_ns else info.state
        info.request_preview = _text(span.inputs)
        info.response_preview = _text(span.outputs)
        info.execution_duration = ((span.end_time_ns or span.start_time_ns) - span.start_time_ns) // 1_000_000


def _text(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value, default=str).decode()


_STORES: dict[str, MemoryStore] = {}


def _opened(store_uri: str, artifact_uri: str | None = None) -> MemoryStore:
    return _STORES.setdefault(store_uri, MemoryStore(store_uri))


tracking_service._tracking_store_registry.register(SCHEME, _opened)


@contextmanager
def memory_store() -> Iterator[str]:
    """Keep a new store in memory as long as this lasts, and yield its address."""
    uri = f"{SCHEME}://{uuid.uuid4().hex}"
    try:
        yield uri
    finally:
        store = _STORES.pop(uri, None)
        if store is not None:
            store.close()
