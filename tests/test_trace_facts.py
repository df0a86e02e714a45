"""Where a stored trace says what is known of it as a whole: docs/spans.md has the table."""

from __future__ import annotations

import re

import mlflow
import pytest
from docs_blocks import Page
from programs import Runs

PAGE = Page("docs/spans.md")

PROCESS = ("mlflow.sourceRun", "mlflow.source.name", "mlflow.source.type", "mlflow.user")
NOT_STORED = (
    "mlflow.trace.sizeBytes",
    "mlflow.trace.sizeStats",
    "mlflow.traceInputs",
    "mlflow.traceOutputs",
    "mlflow.trace_schema.version",
)


def facts(traces, note=lambda given: None):
    """Run a program inside an MLflow run, and return what its trace's root and metadata say."""
    with mlflow.start_run() as run:
        Runs(note)(given=1)
    trace = traces.one()
    info = trace.info
    of_run = mlflow.search_traces(locations=[traces.experiment_id], run_id=run.info.run_id, return_type="list")
    assert [trace.info.trace_id for trace in of_run] == [info.trace_id]
    (root,) = trace.data.spans
    return root.attributes, info.trace_metadata


@pytest.mark.parametrize("engine", ["native", "recorded"], indirect=True)
def test_where_run_and_process_are_said(dspy_traces, engine):
    """The root of a batch says run and process, MLflow's exporter says them in metadata; a search by run finds both."""
    root, metadata = facts(dspy_traces)
    here, there = (metadata, root) if engine == "native" else (root, metadata)
    assert [name for name in PROCESS if name not in here or name in there] == []
    assert [name for name in NOT_STORED if (name in metadata) is not (engine == "native")] == []


@pytest.mark.parametrize("engine", ["native", "recorded"], indirect=True)
def test_a_trace_that_needs_a_record_has_it_whole(dspy_traces, engine):
    """With metadata of the program's own a trace has all facts where MLflow's exporter has them, on either engine."""
    root, metadata = facts(dspy_traces, lambda given: mlflow.update_current_trace(metadata={"build": "7"}))
    assert [name for name in (*PROCESS, *NOT_STORED, "build") if name not in metadata or name in root] == []


def test_the_table_has_each_fact():
    """The table has the facts that the tests here know."""
    rows = PAGE.rows("| what | where MLflow's exporter has it |")
    said = {name for row in rows for cell in row for name in re.findall(r"`(mlflow\.[\w.]+)", cell)}
    assert [name for name in (*PROCESS, *NOT_STORED) if name not in said] == []
