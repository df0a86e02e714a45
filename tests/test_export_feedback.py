"""Feedback on its way to the store: beside the traces, once, and not at their cost."""

from __future__ import annotations

import dspy
import mlflow
import pytest
from ended import EndedTrace, spans_of_a_trace, wait_until
from mlflow.tracing.client import TracingClient
from programs import Echo

from dspy_mlflow_callbacks import MlflowCallback
from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.export import feedback as delivery
from dspy_mlflow_callbacks.export.batch import Batch, Entry
from dspy_mlflow_callbacks.export.errors import StoreAwayError
from dspy_mlflow_callbacks.export.exporter_process import ExporterProcess
from dspy_mlflow_callbacks.export.packing import pack
from dspy_mlflow_callbacks.export.tracking_store import deliver
from dspy_mlflow_callbacks.export.waiting import Destination


def feedback_on(trace_id, number=0, **given):
    said = {"value": True, "rationale": "as expected", "error": None, "message": "", "stacktrace": "", "span_id": None}
    return internals.Feedback(
        **{
            "feedback_id": f"a-{trace_id[3:]}{number}",
            "trace_id": trace_id,
            "name": "exact",
            "created_ms": 1_700_000_000_000,
            **said,
            **given,
        }
    )


def judged(destination, trace_id=None, **given):
    """Return an ended trace with feedback on it, or on another one."""
    spans = spans_of_a_trace()
    trace_id = trace_id or f"tr-{spans[0].context.trace_id:032x}"
    return EndedTrace(destination, spans=spans, feedback=[feedback_on(trace_id, **given)])


def batch_of(*traces):
    return Batch(traces[0].destination, [Entry(n, each, each.size, each.prepared()) for n, each in enumerate(traces)])


@pytest.fixture(autouse=True)
def _nothing_warned(monkeypatch):
    """Let each test hear what is warned of once for each store."""
    monkeypatch.setattr(delivery._WARN, "_warned", set())


@pytest.fixture
def destination(dspy_traces):
    return Destination(tracking_uri=mlflow.get_tracking_uri(), experiment_id=dspy_traces.experiment_id)


def stored(trace_id):
    return TracingClient(mlflow.get_tracking_uri()).get_trace_info(trace_id).assessments


def test_a_batch_is_stored_with_its_feedback(destination):
    """A batch of traces is written with what metrics say of them; written again it is not there twice."""
    traces = [judged(destination), judged(destination, value={"tone": "rude"}, error="ValueError", message="no")]
    for _ in range(2):
        deliver(batch_of(*traces))
    (first,), (second,) = [stored(trace.id) for trace in traces]
    assert (first.name, first.value, first.rationale, first.error) == ("exact", True, "as expected", None)
    assert (second.value, second.error.error_code, second.error.error_message) == ({"tone": "rude"}, "ValueError", "no")
    assert {each.create_time_ms for each in (first, second)} == {1_700_000_000_000}
    assert {each.source.source_type for each in (first, second)} == {"CODE"}


def test_a_store_that_keeps_sums_gets_it_one_by_one(destination, monkeypatch):
    """Where MLflow keeps sums beside its rows, it writes each feedback itself, and that once."""
    monkeypatch.setenv("MLFLOW_SQL_TRACE_ROLLUPS_ENABLED", "true")
    trace = judged(destination)
    for _ in range(2):
        deliver(batch_of(trace))
    assert [each.value for each in stored(trace.id)] == [True]
    gone = feedback_on("tr-" + "0" * 32)
    assert "not found" in delivery.write_to_database(destination.tracking_uri, [gone])


def test_traces_that_wait_as_bytes_keep_their_feedback(destination):
    """A trace that is packed goes to the store with its feedback."""
    batch = batch_of(judged(destination))
    pack(batch.entries[0], destination)
    deliver(batch)
    assert [each.name for each in stored(batch.entries[0].leaves.trace_id)] == ["exact"]


@pytest.mark.warns
@pytest.mark.timeout(300)  # the process takes its time to start
def test_the_exporter_process_writes_it(destination, warned):
    """What goes through the exporter process has its feedback; why some is refused is said in the program."""
    good, bad = judged(destination), judged(destination, trace_id="tr-" + "0" * 32)
    process = ExporterProcess(destination.tracking_uri)
    try:
        wait_until(process.is_ready)
        for trace in (good, bad):
            process.deliver(batch_of(trace), destination.tracking_uri)
    finally:
        process.kill()
    assert [each.name for each in stored(good.id)] == ["exact"]
    assert warned.messages == [f"Feedback is not stored: there is no trace tr-{'0' * 32}. The traces are."]


@pytest.mark.warns
def test_refused_feedback_is_warned_of_once(destination, warned):
    """Feedback on a trace that is gone costs neither the traces nor other feedback, and is said once."""
    good, bad = judged(destination), judged(destination, trace_id="tr-" + "0" * 32)
    for _ in range(2):
        deliver(batch_of(good, bad))
    assert [each.name for each in stored(good.id)] == ["exact"]
    assert warned.messages == [f"Feedback is not stored: there is no trace tr-{'0' * 32}. The traces are."]


def at(httpserver):
    return Destination(tracking_uri=httpserver.url_for("/").rstrip("/"), experiment_id="7")


def test_a_server_gets_it_after_the_spans(httpserver):
    """A server is sent the batch's spans, then each feedback; one that it has already is no failure."""
    httpserver.expect_request("/v1/traces").respond_with_data()
    trace = judged(at(httpserver))
    path = f"/api/3.0/mlflow/traces/{trace.id}/assessments"
    httpserver.expect_oneshot_request(path).respond_with_json({})
    httpserver.expect_request(path).respond_with_data("due to a constraint violation.", status=500)
    for _ in range(2):
        deliver(batch_of(trace))
    assert [request.path for request, _ in httpserver.log] == ["/v1/traces", path] * 2
    sent = httpserver.log[1][0].json["assessment"]
    assert (sent["assessment_name"], sent["assessment_id"], sent["feedback"]) == (
        "exact",
        trace.extras["feedback"][0].feedback_id,
        {"value": True},
    )


@pytest.mark.warns
@pytest.mark.parametrize("status", [400, 404, 500])
def test_what_a_server_refuses(httpserver, warned, status):
    """Feedback that a server refuses is given up; the traces, which it has, are stored."""
    httpserver.expect_request("/v1/traces").respond_with_data()
    trace = judged(at(httpserver))
    path = f"/api/3.0/mlflow/traces/{trace.id}/assessments"
    httpserver.expect_request(path).respond_with_data("not that", status=status)
    deliver(batch_of(trace))
    (message,) = warned.messages
    assert message.startswith("Feedback is not stored: ")
    assert f"answered {status}: not that" in message


def test_a_server_that_is_away(httpserver):
    """A server that goes away between spans and feedback is sent both again."""
    httpserver.expect_request("/v1/traces").respond_with_data()
    trace = judged(at(httpserver))
    path = f"/api/3.0/mlflow/traces/{trace.id}/assessments"
    httpserver.expect_request(path).respond_with_data("later", status=503)
    with pytest.raises(StoreAwayError, match="later"):
        deliver(batch_of(trace))


def test_a_store_in_memory_gets_it_one_by_one(memory_traces):
    """Where there are no rows MLflow's store writes each."""
    with dspy.context(callbacks=[MlflowCallback()]):
        Echo()()
    (trace,) = memory_traces.all()
    internals.write_feedback(mlflow.get_tracking_uri(), [feedback_on(trace.info.trace_id)])
    assert [each.value for each in memory_traces.one().info.assessments] == [True]
