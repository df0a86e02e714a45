"""Delivery to an SQL store: in batches, with runs, infos, attachments and prompts, and what a store refuses."""

from __future__ import annotations

import contextlib
import json

import attrs
import mlflow
import pytest
from ended import EndedTrace, spans_of_a_trace, stored_ids
from mlflow.entities import TraceInfo, TraceLocation, TraceState
from mlflow.tracing.attachments import Attachment
from mlflow.tracing.client import TracingClient
from mlflow.tracking._tracking_service import utils as tracking_service

from dspy_mlflow_callbacks.export.batch import Batch, Entry
from dspy_mlflow_callbacks.export.errors import RefusedError, StoreAwayError
from dspy_mlflow_callbacks.export.exporter import Exporter
from dspy_mlflow_callbacks.export.tracking_store import deliver
from dspy_mlflow_callbacks.export.waiting import Destination, Limits

LIMITS = Limits()


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    """Return a store of its own: a new database takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def destination(uri, request):
    folder = f"{uri.removeprefix('sqlite:///').removesuffix('mlflow.db')}artifacts"
    experiment_id = mlflow.MlflowClient(uri).create_experiment(request.node.name, artifact_location=folder)
    return Destination(tracking_uri=uri, experiment_id=experiment_id)


@pytest.fixture
def exporter():
    exporter = Exporter()
    yield exporter
    exporter.close(60)


@pytest.fixture
def run(destination):
    """Return the id of a run of the experiment."""
    return mlflow.MlflowClient(destination.tracking_uri).create_run(destination.experiment_id).info.run_id


def deliver_all(traces):
    """Deliver traces of one destination in one batch."""
    entries = [Entry(number, trace, trace.size, trace.prepared()) for number, trace in enumerate(traces)]
    deliver(Batch(traces[0].destination, entries))


def info_of(trace, **given):
    location = TraceLocation.from_experiment_id(trace.destination.experiment_id)
    return TraceInfo(trace_id=trace.id, trace_location=location, request_time=1, state=TraceState.OK, **given)


def test_what_a_trace_has_is_stored(exporter, destination):
    """Spans with their attributes, tags, session and user are in the store once the exporter is flushed."""
    attributes = {
        "mlflow.spanInputs": {"question": "why?"},
        "mlflow.traceTag.team": "blue",
        "mlflow.traceTag.mlflow.traceName": "Program",
        "session.id": "s1",
        "user.id": "u1",
    }
    trace = EndedTrace(destination, spans=spans_of_a_trace(2, **attributes))
    exporter.put(trace, LIMITS)
    assert exporter.flush(60)
    stored = mlflow.MlflowClient(destination.tracking_uri).get_trace(trace.id)
    assert trace.told == [("stored", None)]
    assert [(span.name, span.parent_id, span.inputs) for span in stored.data.spans] == [
        ("span 0", None, {"question": "why?"}),
        ("span 1", stored.data.spans[0].span_id, {"question": "why?"}),
    ]
    assert (stored.info.state, stored.info.experiment_id) == (TraceState.OK, destination.experiment_id)
    assert (stored.info.tags["team"], stored.info.tags["mlflow.traceName"]) == ("blue", "Program")
    assert stored.info.trace_metadata["mlflow.trace.session"] == "s1"
    assert stored.info.trace_metadata["mlflow.trace.user"] == "u1"


def test_a_batch_that_comes_twice_is_stored_once(destination):
    """Traces that are delivered again, as after an answer that was lost, are there once, with the same spans."""
    traces = [EndedTrace(destination) for _ in range(5)]
    deliver_all(traces)
    deliver_all(traces)
    assert stored_ids(destination) == sorted(trace.id for trace in traces)
    stored = mlflow.MlflowClient(destination.tracking_uri).get_trace(traces[0].id)
    assert len(stored.data.spans) == len(traces[0].spans)


def test_traces_are_linked_to_their_run(destination, run):
    """More traces than MLflow links at once are all linked to their run."""
    linked = attrs.evolve(destination, run_id=run)
    traces = [EndedTrace(linked, spans=spans_of_a_trace(1)) for _ in range(120)]
    deliver_all(traces)
    deliver_all([EndedTrace(destination)])
    assert stored_ids(linked) == sorted(trace.id for trace in traces)


@pytest.mark.warns
def test_a_run_that_the_store_refuses_costs_the_link_alone(destination, warned):
    """Traces whose run the store does not take are stored all the same, and it is said once."""
    lost = attrs.evolve(destination, run_id=("no", "text"))
    deliver_all([EndedTrace(lost)])
    deliver_all([EndedTrace(lost)])
    (message,) = warned.messages
    assert message.startswith("Traces are not linked to the run ('no', 'text'): ")
    assert len(stored_ids(destination)) == 2


def test_a_run_is_linked_later_if_the_database_is_away(destination, run):
    """Where the database goes away between the spans and the link, the batch is to be delivered again."""
    with without_table(destination, "entity_associations"), pytest.raises(StoreAwayError):
        deliver_all([EndedTrace(attrs.evolve(destination, run_id=run))])


def test_what_spans_cannot_carry_is_stored_too(exporter, destination, monkeypatch):
    """A trace with an info, an attachment and a prompt is stored with all three."""
    prompt = mlflow.MlflowClient(registry_uri=destination.tracking_uri).register_prompt("p", "Say {{it}}")
    attachment = Attachment(content_type="text/plain", content_bytes=b"content")
    trace = EndedTrace(destination, attachments={attachment.id: attachment}, prompts=[prompt])
    trace.extras["info"] = info_of(trace, client_request_id="mine", trace_metadata={"mlflow.modelId": "m-1"})
    monkeypatch.setattr(tracking_service, "_tracking_uri", destination.tracking_uri)  # where MLflow looks for prompts
    exporter.put(trace, LIMITS)
    assert exporter.flush(60)
    stored = mlflow.get_trace(trace.id)
    content = TracingClient(destination.tracking_uri)._get_artifact_repo_for_trace(stored.info)
    assert (trace.outcome(), len(stored.data.spans)) == ("stored", 3)
    assert stored.info.client_request_id == "mine"
    assert stored.info.trace_metadata["mlflow.modelId"] == "m-1"
    assert [each["name"] for each in json.loads(stored.info.tags["mlflow.linkedPrompts"])] == ["p"]
    assert content.download_trace_attachment(attachment.id) == b"content"


def test_attachments_need_no_info(destination):
    """Attachments of a trace whose spans say all the rest are stored beside it."""
    attachment = Attachment(content_type="text/plain", content_bytes=b"content")
    trace = EndedTrace(destination, attachments={attachment.id: attachment})
    deliver_all([trace])
    client = TracingClient(destination.tracking_uri)
    repository = client._get_artifact_repo_for_trace(client.get_trace_info(trace.id))
    assert repository.download_trace_attachment(attachment.id) == b"content"


@pytest.mark.warns
def test_a_bad_trace_costs_itself_alone(exporter, destination):
    """A trace that the store cannot take fails; those that came with it are stored."""
    traces = [EndedTrace(destination) for _ in range(8)]
    for span in traces[5].spans:
        span._attributes = {}
    for trace in traces:
        exporter.put(trace, LIMITS)
    assert exporter.flush(60)
    assert [trace.outcome() for trace in traces] == ["stored"] * 5 + ["failed"] + ["stored"] * 2
    assert stored_ids(destination) == sorted(trace.id for trace in traces if trace is not traces[5])


def test_an_experiment_that_is_not_there_refuses_all(destination):
    """Where the experiment is not there, no trace of the batch has a chance."""
    with pytest.raises(RefusedError, match="No Experiment with id=999") as refused:
        deliver_all([EndedTrace(attrs.evolve(destination, experiment_id="999"))])
    assert refused.value.is_for_all


def test_an_error_of_the_database_is_waited_out(destination):
    """An error of the database, such as a lock that somebody holds, means that the batch may be stored later."""
    with without_table(destination, "spans"), pytest.raises(StoreAwayError):
        deliver_all([EndedTrace(destination)])


@contextlib.contextmanager
def without_table(destination, table):
    """Let the database fail."""
    engine = TracingClient(destination.tracking_uri).store.engine

    def rename(old, new):
        with engine.begin() as connection:
            connection.exec_driver_sql(f"ALTER TABLE {old} RENAME TO {new}")

    rename(table, "gone")
    try:
        yield
    finally:
        rename("gone", table)
