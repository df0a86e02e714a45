"""Inputs whose traces MLflow has already."""

from __future__ import annotations

from typing import Any

import dspy
import mlflow

from dspy_mlflow_callbacks.describe.signatures import FINGERPRINT
from dspy_mlflow_callbacks.executor.work import INPUT, NAME
from dspy_mlflow_callbacks.flushing import flush

_PAGE = 500


def stored_inputs(name: str | None, fingerprint: str, experiment_id: str | None) -> dict[str, str]:
    """Return the ids of traces by the ids of the inputs for which a program's run went well.

    Args:
        name: The run's name; None for any run.
        fingerprint: The program's.
        experiment_id: The experiment; None for MLflow's active one.
    """
    flush()
    client, token = mlflow.MlflowClient(), None
    locations = None if experiment_id is None else [experiment_id]
    found: dict[str, str] = {}
    while True:
        page = client.search_traces(
            locations=locations,
            filter_string=f"tag.`{FINGERPRINT}` = '{fingerprint}' AND trace.status = 'OK'",
            max_results=_PAGE,
            page_token=token,
            include_spans=False,
        )
        for trace in page:
            tags = trace.info.tags
            if INPUT in tags and (name is None or tags.get(NAME) == name):
                found.setdefault(tags[INPUT], trace.info.trace_id)  # the newest comes first
        token = page.token
        if not token:
            return found


def stored_prediction(trace_id: str) -> Any:
    """Return what the program returned in a stored trace, as JSON values; a `dspy.Prediction` where it is an object.

    Raises:
        mlflow.exceptions.MlflowException: if the store has the trace no more.
    """
    trace = mlflow.MlflowClient().get_trace(trace_id)
    outputs = next(span.outputs for span in trace.data.spans if span.parent_id is None)
    return dspy.Prediction(**outputs) if isinstance(outputs, dict) else outputs
