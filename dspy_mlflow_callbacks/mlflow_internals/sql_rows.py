"""Rows of MLflow's SQL stores.

Importing this takes a second, unless an SQL store is open; so only who has one imports it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from mlflow.entities import Feedback
from mlflow.store.tracking import sqlalchemy_store
from mlflow.store.tracking.dbmodels.models import SqlAssessments, SqlSpan, SqlTraceInfo


def keeps_sums() -> bool:
    """Return whether the store keeps sums beside its rows (since MLflow 3.17, where it is told to): it has to know."""
    enabled = getattr(sqlalchemy_store, "rollups_enabled", None)
    return enabled is not None and bool(enabled())


def contents_of_spans(session: Any, trace_ids: Collection[str]) -> Iterable[tuple[str, str]]:
    """Return the JSON texts of the spans of these traces, each with its trace's id."""
    columns = (SqlSpan.trace_id, SqlSpan.content)
    found: Iterable[tuple[str, str]] = session.query(*columns).filter(SqlSpan.trace_id.in_(list(trace_ids)))
    return found


def known_feedback(session: Any, feedback_ids: Collection[str]) -> set[str]:
    """Return those of the ids that are there."""
    column = SqlAssessments.assessment_id
    return {known for (known,) in session.query(column).filter(column.in_(feedback_ids))}


def places_of_traces(session: Any, trace_ids: Collection[str]) -> dict[str, tuple[Any, Any]]:
    """Return the experiment and the time of each of these traces that is there."""
    columns = (SqlTraceInfo.request_id, SqlTraceInfo.experiment_id, SqlTraceInfo.timestamp_ms)
    found = session.query(*columns).filter(SqlTraceInfo.request_id.in_(trace_ids))
    return {trace_id: (experiment_id, timestamp_ms) for trace_id, experiment_id, timestamp_ms in found}


def row_of_feedback(feedback: Feedback, experiment_id: Any, timestamp_ms: Any) -> Any:
    """Return a row that can be added to a session."""
    row = SqlAssessments.from_mlflow_entity(feedback)
    row.experiment_id, row.trace_timestamp_ms = experiment_id, timestamp_ms
    return row
