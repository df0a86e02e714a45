"""Delivery to a tracking server: what it is sent, what its answers mean, and what a real one has stored."""

from __future__ import annotations

import socket

import attrs
import mlflow
import pytest
from ended import EndedTrace, FakeStore, spans_of_a_trace, stored_ids
from mlflow.entities import TraceInfo, TraceLocation, TraceState
from mlflow.tracing.attachments import Attachment
from mlflow.tracing.client import TracingClient
from mlflow.tracking._tracking_service import utils as tracking_service
from tracking_server import TrackingServer

from dspy_mlflow_callbacks.export.batch import Batch, Entry
from dspy_mlflow_callbacks.export.errors import RefusedError, StoreAwayError
from dspy_mlflow_callbacks.export.exporter import Exporter
from dspy_mlflow_callbacks.export.otlp import request_of_values
from dspy_mlflow_callbacks.export.tracking_store import deliver
from dspy_mlflow_callbacks.export.waiting import Destination, Limits

LIMITS = Limits()


@pytest.fixture
def exporter():
    exporter = Exporter()
    yield exporter
    exporter.close(60)


def deliver_all(traces):
    """Deliver traces of one destination in one batch."""
    entries = [Entry(number, trace, trace.size, trace.prepared()) for number, trace in enumerate(traces)]
    deliver(Batch(traces[0].destination, entries))


def destination_at(httpserver, **given):
    return Destination(tracking_uri=f"http://user:pw@127.0.0.1:{httpserver.port}", experiment_id="7", **given)


def test_a_server_gets_one_request_for_a_batch(httpserver, monkeypatch):
    """A batch is one OTLP request, with experiment, run, workspace and MLflow's own authentication."""
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "token")
    httpserver.expect_request("/v1/traces").respond_with_data()
    httpserver.expect_request("/version").respond_with_data("3.14.0")
    destination = Destination(
        tracking_uri=httpserver.url_for("/").rstrip("/"), experiment_id="7", run_id="r1", workspace="blue"
    )
    traces = [EndedTrace(destination) for _ in range(3)]
    deliver_all(traces)
    deliver_all(traces)
    assert [request.path for request, _ in httpserver.log] == ["/v1/traces", "/version", "/v1/traces"]
    request = httpserver.log[0][0]
    wanted = {
        "Content-Type": "application/x-protobuf",
        "X-Mlflow-Experiment-Id": "7",
        "X-Mlflow-Run-Id": "r1",
        "X-Mlflow-Workspace": "blue",
        "Authorization": "Bearer token",
    }
    assert {name: request.headers[name] for name in wanted} == wanted
    assert request.data == request_of_values([span for trace in traces for span in trace.spans])


def test_a_server_before_mlflow_3_14_is_asked_to_link_runs(httpserver):
    """A server that does not know the run of an OTLP request has the traces linked by a request of their own."""
    httpserver.expect_request("/v1/traces").respond_with_data()
    httpserver.expect_request("/version").respond_with_data("3.12.0")
    httpserver.expect_request("/api/2.0/mlflow/traces/link-to-run").respond_with_json({})
    trace = EndedTrace(destination_at(httpserver, run_id="r1"))
    deliver_all([trace])
    assert httpserver.log[-1][0].json == {"trace_ids": [trace.id], "run_id": "r1"}


@pytest.mark.parametrize(
    ("status", "answer", "error", "is_whole"),
    [
        (400, "", RefusedError, False),
        (413, "", RefusedError, False),
        (422, '{"detail": "Cannot convert"}', RefusedError, False),
        (401, "", RefusedError, True),
        (403, '{"error_code": "PERMISSION_DENIED", "message": "no"}', RefusedError, True),
        (404, '{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "No Experiment"}', RefusedError, True),
        (501, "", RefusedError, True),
        (422, '{"detail": "Failed to log OpenTelemetry spans"}', StoreAwayError, True),
        (400, "(psycopg2.DatabaseError) (https://sqlalche.me/e/20/4xp6)", StoreAwayError, True),
        (400, "(psycopg2.errors.DataError) (https://sqlalche.me/e/20/9h9h)", RefusedError, False),
        (408, "", StoreAwayError, False),
        (429, "", StoreAwayError, False),
        (500, "", StoreAwayError, True),
        (500, '{"error_code": "INTERNAL_ERROR", "message": "oh"}', StoreAwayError, True),
        (503, '{"error_code": "TEMPORARILY_UNAVAILABLE", "message": "later"}', StoreAwayError, False),
        (502, "", StoreAwayError, False),
    ],
)
def test_what_an_answer_means(httpserver, status, answer, error, is_whole):
    """A server that refuses is not asked again; one that is away or busy is. It is asked once at a time."""
    httpserver.expect_request("/v1/traces").respond_with_data(answer, status=status)
    with pytest.raises(error) as failed:
        deliver_all([EndedTrace(destination_at(httpserver))])
    assert (getattr(failed.value, "is_for_all", False) or getattr(failed.value, "may_be_the_batch", False)) is is_whole
    assert len(httpserver.log) == 1
    assert "pw" not in str(failed.value)
    assert not str(failed.value).endswith(":")


def test_a_server_that_is_not_there_is_waited_for():
    """Where nobody listens, the batch may be stored later; the address is said without its password."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        destination = Destination(tracking_uri=f"http://user:pw@127.0.0.1:{free.getsockname()[1]}", experiment_id="1")
    with pytest.raises(StoreAwayError) as failed:
        deliver_all([EndedTrace(destination)])
    assert "pw" not in str(failed.value)


@pytest.mark.warns
def test_a_server_that_comes_back_gets_everything(httpserver, exporter, warned):
    """Traces that end while a server is away are stored when it is back, and it is said once that it was away."""
    handlers = [httpserver.expect_oneshot_request("/v1/traces").respond_with_data(status=503) for _ in range(3)]
    httpserver.expect_request("/v1/traces").respond_with_data()
    traces = [EndedTrace(destination_at(httpserver)) for _ in range(3)]
    for trace in traces:
        exporter.put(trace, LIMITS)
    assert exporter.flush(60)
    assert [trace.outcome() for trace in traces] == ["stored"] * 3
    assert len(handlers) == 3
    (message,) = warned.messages
    assert message.startswith(f"Traces are not stored in http://127.0.0.1:{httpserver.port}: ")


def test_a_real_server_stores_what_it_is_sent(server, exporter):
    """A tracking server has each trace once, with its spans, tags and session, and linked to its run."""
    client = mlflow.MlflowClient(server.uri)
    experiment_id = client.create_experiment("whole")
    run_id = client.create_run(experiment_id).info.run_id
    destination = Destination(tracking_uri=server.uri, experiment_id=experiment_id, run_id=run_id)
    attributes = {"mlflow.spanInputs": {"q": ["why?", 1, None]}, "mlflow.traceTag.team": "blue", "session.id": "s1"}
    traces = [EndedTrace(destination, spans=spans_of_a_trace(2, **attributes)) for _ in range(110)]
    for trace in traces:
        exporter.put(trace, LIMITS)
    assert exporter.flush(60)
    deliver_all(traces[:3])
    assert stored_ids(destination) == sorted(trace.id for trace in traces)
    stored = client.get_trace(traces[0].id)
    assert [(span.name, span.inputs) for span in stored.data.spans] == [
        ("span 0", {"q": ["why?", 1, None]}),
        ("span 1", {"q": ["why?", 1, None]}),
    ]
    assert (stored.info.state, stored.info.tags["team"]) == (TraceState.OK, "blue")
    assert stored.info.trace_metadata["mlflow.trace.session"] == "s1"


def test_a_real_server_gets_what_spans_cannot_carry(server, monkeypatch):
    """A trace with an info and an attachment is stored with both."""
    monkeypatch.setattr(tracking_service, "_tracking_uri", server.uri)  # where MLflow looks for the server's artifacts
    trace, attachment = trace_with_more(server, "info")
    deliver_all([trace])
    client = TracingClient(server.uri)
    stored = client.get_trace(trace.id)
    assert (len(stored.data.spans), stored.info.client_request_id) == (3, "mine")
    assert stored.info.trace_metadata["mlflow.modelId"] == "m-1"
    repository = client._get_artifact_repo_for_trace(stored.info)
    assert repository.download_trace_attachment(attachment.id) == b"content"


@pytest.mark.warns
def test_attachments_that_find_no_place_do_not_cost_the_trace(server, warned, monkeypatch):
    """Where MLflow cannot say where attachments go, as for a server other than its own, the trace is stored."""
    monkeypatch.setattr(tracking_service, "_tracking_uri", "sqlite:///elsewhere.db")
    trace, _ = trace_with_more(server, "elsewhere")
    deliver_all([trace])
    assert stored_ids(trace.destination) == [trace.id]
    (message,) = warned.messages
    assert message.startswith("Attachments are not stored: ")


def trace_with_more(server, name):
    """Return a trace with an info and an attachment, and the attachment."""
    experiment_id = mlflow.MlflowClient(server.uri).create_experiment(name)
    attachment = Attachment(content_type="text/plain", content_bytes=b"content")
    destination = Destination(tracking_uri=server.uri, experiment_id=experiment_id)
    trace = EndedTrace(destination, attachments={attachment.id: attachment})
    trace.extras["info"] = TraceInfo(
        trace_id=trace.id,
        trace_location=TraceLocation.from_experiment_id(experiment_id),
        request_time=1,
        state=TraceState.OK,
        client_request_id="mine",
        trace_metadata={"mlflow.modelId": "m-1"},
    )
    return trace, attachment


@pytest.mark.warns
def test_a_real_server_refuses_one_trace_alone(server, exporter):
    """A trace that the server cannot store is found among those that came with it, which are stored."""
    experiment_id = mlflow.MlflowClient(server.uri).create_experiment("bad")
    destination = Destination(tracking_uri=server.uri, experiment_id=experiment_id)
    traces = [EndedTrace(destination) for _ in range(6)]
    traces[4].spans[0]._start_time = 2**63 + 10**17
    for trace in traces:
        exporter.put(trace, LIMITS)
    assert exporter.flush(100)
    assert [trace.outcome() for trace in traces] == ["stored"] * 4 + ["failed"] + ["stored"]
    assert stored_ids(destination) == sorted(trace.id for trace in traces if trace is not traces[4])


@pytest.mark.warns
def test_a_real_server_that_was_dead_at_first_gets_everything(tmp_path, exporter):
    """Traces that ended before the server was there are all stored in the end."""
    server = TrackingServer(tmp_path)
    destination = Destination(tracking_uri=server.uri, experiment_id="0")
    traces = [EndedTrace(destination) for _ in range(20)]
    for trace in traces:
        exporter.put(trace, LIMITS)
    assert not exporter.flush(0.5)
    server.start()
    try:
        assert exporter.flush(60)
        assert [trace.outcome() for trace in traces] == ["stored"] * 20
        assert stored_ids(destination) == sorted(trace.id for trace in traces)
    finally:
        server.stop()


def test_other_stores_go_on_while_a_server_is_away(httpserver):
    """A server that is away does not keep an SQL store's traces waiting."""
    store = FakeStore()
    away = attrs.evolve(destination_at(httpserver))
    exporter = Exporter(lambda batch: deliver(batch) if batch.destination == away else store(batch))
    httpserver.expect_oneshot_request("/v1/traces").respond_with_data(status=503)
    httpserver.expect_request("/v1/traces").respond_with_data()
    waits, passes = EndedTrace(away), EndedTrace()
    exporter.put(waits, LIMITS)
    exporter.put(passes, LIMITS)
    assert (passes.outcome(), waits.outcome()) == ("stored", "stored")
    exporter.close(60)
