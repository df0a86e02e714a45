"""Feedback on traces, which MLflow keeps as assessments: written in batches, where MLflow writes one at a time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import attrs
from mlflow.entities import AssessmentError
from mlflow.entities import Feedback as MlflowFeedback
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST
from mlflow.protos.service_pb2 import CreateAssessment
from mlflow.utils.proto_json_utils import message_to_json
from mlflow.utils.rest_utils import _V3_TRACE_REST_API_PATH_PREFIX

from dspy_mlflow_callbacks.mlflow_internals.live_spans import trace_info
from dspy_mlflow_callbacks.mlflow_internals.stores import ServerError, ask, client_of

# What a store answers to an id that it has: the feedback came through before, and its answer did not.
_THERE_ALREADY = "constraint violation"


@attrs.frozen(kw_only=True)
class Feedback:
    """Feedback on a trace, or on a span of one; plain values, which can be sent to another process.

    Attributes:
        feedback_id: MLflow's id of it.
        trace_id: MLflow's id of the trace.
        span_id: The span, 16 hexadecimal digits; None where it is about the trace.
        name: Whose it is: the metric's name.
        value: A boolean, number, text, list or dict; None where there is none.
        rationale: Why, in words.
        error: The class of the exception that there is in place of a value.
        message: What it says.
        stacktrace: Where it was raised.
        created_ms: When, in milliseconds since 1970.
    """

    feedback_id: str
    trace_id: str
    span_id: str | None
    name: str
    value: Any
    rationale: str | None
    error: str | None
    message: str
    stacktrace: str
    created_ms: int

    def entity(self) -> MlflowFeedback:
        """Return MLflow's own."""
        error = None if self.error is None else AssessmentError(self.error, self.message or None, self.stacktrace)
        entity = MlflowFeedback(
            name=self.name,
            value=self.value,
            error=error,
            trace_id=self.trace_id,
            span_id=self.span_id,
            create_time_ms=self.created_ms,
            last_update_time_ms=self.created_ms,
            rationale=self.rationale,
        )
        entity.assessment_id = self.feedback_id
        return entity


def add_feedback(span: Any, feedback: Feedback) -> None:
    """Let MLflow store *feedback* with the trace of an open span, if it has that in memory: else it is lost itself."""
    info = trace_info(span)
    if info is not None and not is_said(info, feedback.name):
        info.assessments.append(feedback.entity())


def is_said(info: Any, name: str) -> bool:
    """Return whether somebody else, such as `mlflow.dspy.autolog`, has said of a trace what a metric says."""
    return any(each.name == name and each.span_id is None for each in info.assessments)


def write_feedback(uri: str, feedback: Sequence[Feedback]) -> None:
    """Write feedback on stored traces to an SQL store in one transaction; what is there already stays.

    Raises:
        MlflowException: if the store fails, or, once the rest is written, if a trace is gone.
    """
    store = client_of(uri).store
    sql_rows = _rows_of(store)
    if sql_rows is None:
        _write_one_by_one(store, feedback)
        return
    with store.ManagedSessionMaker(read_only=False) as session:
        traces = sql_rows.places_of_traces(session, {each.trace_id for each in feedback})
        known = sql_rows.known_feedback(session, {each.feedback_id for each in feedback})
        rows = [each for each in feedback if each.feedback_id not in known and each.trace_id in traces]
        session.add_all([sql_rows.row_of_feedback(each.entity(), *traces[each.trace_id]) for each in rows])
    gone = next((each.trace_id for each in feedback if each.trace_id not in traces), None)
    if gone is not None:
        message = f"there is no trace {gone}"
        raise MlflowException(message, RESOURCE_DOES_NOT_EXIST)


def _rows_of(store: Any) -> Any:
    """Return what makes rows for a store; None where MLflow has to write: in memory, or where the store keeps sums."""
    if not hasattr(store, "ManagedSessionMaker"):
        return None
    from dspy_mlflow_callbacks.mlflow_internals import sql_rows  # noqa: PLC0415  (the store has imported what it takes)

    return None if sql_rows.keeps_sums() else sql_rows


def _write_one_by_one(store: Any, feedback: Sequence[Feedback]) -> None:
    for each in feedback:
        _write_one(store, each)


def _write_one(store: Any, feedback: Feedback) -> None:
    try:
        store.create_assessment(feedback.entity())
    except MlflowException as error:
        if _THERE_ALREADY not in error.message:
            raise


def post_feedback(uri: str, feedback: Feedback) -> None:
    """Send feedback on a stored trace to a tracking server once; what is there already stays.

    Raises:
        ServerError: if the server does not answer, or refuses.
    """
    body = json.loads(message_to_json(CreateAssessment(assessment=feedback.entity().to_proto())))
    endpoint = f"{_V3_TRACE_REST_API_PATH_PREFIX}/{feedback.trace_id}/assessments"
    try:
        ask(uri, endpoint, "POST", json=body)
    except ServerError as error:
        if _THERE_ALREADY not in str(error):
            raise
