"""The store in memory that `dspy_traces` captures into answers as MLflow's own stores do."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import tempfile
from pathlib import Path

import dspy
import mlflow
import pytest
from mlflow.entities import AssessmentSource, Feedback
from mlflow.exceptions import MlflowException
from mlflow.tracking._tracking_service.utils import _get_store
from programs import Echo, Program, answering, program_tree
from threads import at_once

from dspy_mlflow_callbacks.testing import CapturedTraces, capture_traces
from dspy_mlflow_callbacks.testing.captured import tree

_PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5Er"
    "kJggg=="
)


@pytest.fixture(autouse=True)
def _lm():
    dspy.configure(lm=answering())


def said(info):
    """Return what a trace says as a whole, but for what is of its store, its times and its process."""
    tags = {key: text for key, text in info.tags.items() if key != "mlflow.artifactLocation"}
    metadata = {key: info.trace_metadata.get(key) for key in ("mlflow.trace.session", "mlflow.trace.user")}
    return info.state, info.request_preview, info.response_preview, tags, metadata, info.token_usage


def run_everything():
    """Run programs that return, that raise, and that have a session, tags and spans of the user."""
    Program()(question="why?")
    with pytest.raises(TypeError):
        Program()()
    with mlflow.tracing.context(tags={"team": "search"}, session_id="7", user="ann"), mlflow.start_span("mine"):
        Program()(question="how?")


def test_traces_say_what_they_say_in_a_database(dspy_traces, engine):
    """State, previews, tags, session, user and tokens are the same in memory and in SQLite."""
    run_everything()
    stored = [(tree(trace), said(trace.info)) for trace in dspy_traces.all()]
    callbacks = dspy.settings.callbacks
    with capture_traces() as traces, dspy.context(callbacks=callbacks):
        run_everything()
        assert [(tree(trace), said(trace.info)) for trace in traces.all()] == stored


def test_many_threads_are_captured(memory_traces):
    """A trace of each of 32 threads that end their programs at the same time is captured."""
    work = functools.partial(Program(), question="why?")
    at_once(*[functools.partial(contextvars.copy_context().run, work) for _ in range(32)])
    assert [tree(trace) for trace in memory_traces.all()] == [[program_tree()]] * 32


def test_traces_are_found(memory_traces):
    """MLflow finds traces by id, by filter, by session and in pages; an unknown one is refused."""
    for number in range(3):
        with mlflow.tracing.context(tags={"number": f"{number}"}):
            Echo()(f"{number}")
    ids = [trace.info.trace_id for trace in memory_traces.all()]
    assert mlflow.get_trace(ids[0]).data.request == '{"question":"0"}'
    (found,) = mlflow.search_traces(filter_string="tag.number = '1'", return_type="list")
    assert found.info.trace_id == ids[1]
    client = mlflow.MlflowClient()
    page = client.search_traces(locations=["0"], max_results=2, order_by=["timestamp_ms ASC"])
    rest = client.search_traces(locations=["0"], max_results=2, order_by=["timestamp_ms ASC"], page_token=page.token)
    assert {trace.info.trace_id for trace in [*page, *rest]} == set(ids)
    with pytest.raises(MlflowException, match="There is no trace tr-unknown"):
        client.get_trace("tr-unknown")


def test_many_traces_are_read_at_once(memory_traces):
    """What is known of several traces is read at once, of those that there are."""
    Echo()("first")
    Echo()("second")
    ids = [trace.info.trace_id for trace in memory_traces.all()]
    infos = _get_store().batch_get_trace_infos([*ids, "tr-unknown"])
    assert [(info.trace_id, info.request_preview) for info in infos] == [
        (ids[0], '{"question":"first"}'),
        (ids[1], '{"question":"second"}'),
    ]


def test_spans_are_kept_by_a_coroutine(memory_traces):
    """Spans that a server's coroutine hands over, as MLflow's own server does, are kept as those of a thread."""
    Echo()()
    trace = memory_traces.one()
    mlflow.MlflowClient().delete_traces("0", trace_ids=[trace.info.trace_id])
    asyncio.run(_get_store().log_spans_async("0", trace.data.spans))
    assert tree(memory_traces.one()) == tree(trace)


def test_the_experiment_is_found(memory_traces):
    """The experiment of the captured traces is found by id and by name."""
    found = mlflow.get_experiment(memory_traces.experiment_id)
    assert (found.name, found.lifecycle_stage) == ("Default", "active")
    assert mlflow.get_experiment_by_name("Default").experiment_id == memory_traces.experiment_id


def test_tags_change(memory_traces):
    """A tag of a captured trace can be set and deleted; one that is not there cannot."""
    Echo()()
    trace_id = memory_traces.one().info.trace_id
    mlflow.set_trace_tag(trace_id, "checked", "yes")
    assert memory_traces.one().info.tags["checked"] == "yes"
    mlflow.delete_trace_tag(trace_id, "checked")
    assert "checked" not in memory_traces.one().info.tags
    with pytest.raises(MlflowException, match="There is no tag checked"):
        mlflow.delete_trace_tag(trace_id, "checked")


@pytest.mark.parametrize("chosen", ["ids", "time", "number"])
def test_traces_are_deleted(memory_traces, chosen):
    """Traces can be deleted by id, by time and by number, the oldest first."""
    for _ in range(3):
        Echo()()
    infos = [trace.info for trace in memory_traces.all()]
    by = {
        "ids": {"trace_ids": [infos[0].trace_id]},
        "time": {"max_timestamp_millis": infos[-1].request_time, "max_traces": 1},
        "number": {"max_timestamp_millis": infos[-1].request_time + 1, "max_traces": 1},
    }
    assert mlflow.MlflowClient().delete_traces("0", **by[chosen]) == 1
    assert len(memory_traces.all()) == 2


def test_feedback_is_kept(memory_traces):
    """Feedback can be logged, read, changed, overridden and deleted, and stands on the trace."""
    Echo()()
    trace_id = memory_traces.one().info.trace_id
    source = AssessmentSource(source_type="HUMAN", source_id="ann")
    first = mlflow.log_feedback(trace_id=trace_id, name="good", value=False, source=source)
    changed = Feedback(name="good", value=True, metadata={"seen": "twice"})
    mlflow.update_assessment(trace_id, first.assessment_id, changed)
    (kept,) = memory_traces.one().info.assessments
    assert (kept.name, kept.feedback.value, kept.metadata) == ("good", True, {"seen": "twice"})
    second = mlflow.override_feedback(trace_id=trace_id, assessment_id=first.assessment_id, value=False)
    assert not mlflow.get_assessment(trace_id, first.assessment_id).valid
    mlflow.delete_assessment(trace_id, second.assessment_id)
    assert mlflow.get_assessment(trace_id, first.assessment_id).valid
    mlflow.delete_assessment(trace_id, first.assessment_id)
    with pytest.raises(MlflowException, match="There is no assessment"):
        mlflow.get_assessment(trace_id, first.assessment_id)


def test_what_else_a_program_logs_is_kept_until_the_end():
    """Runs, further experiments and artifacts are kept in a temporary folder that goes with the capture."""
    with capture_traces() as traces:
        with mlflow.start_run() as run:
            Program()(question="why?")
            mlflow.log_metric("score", 1)
            mlflow.log_text("kept", "note.txt")
        (linked,) = mlflow.search_traces(run_id=run.info.run_id, return_type="list")
        assert linked.info.trace_id == traces.one().info.trace_id
        assert mlflow.get_run(run.info.run_id).data.metrics == {"score": 1}
        other = mlflow.set_experiment("other")
        assert mlflow.get_experiment(other.experiment_id).name == "other"
        Echo()()
        assert CapturedTraces(other.experiment_id).one().info.tags["mlflow.traceName"] == "Echo"
        folder = Path(tempfile.gettempdir()) / f"dspy_traces_{mlflow.get_tracking_uri().rpartition('/')[2]}"
        assert folder.is_dir()
    assert not folder.exists()


def test_captures_do_not_see_each_other():
    """A capture inside another has traces of its own, and afterwards the outer one goes on."""
    with capture_traces() as outer:
        with capture_traces() as inner:
            Echo()("inside")
        Echo()("outside")
        assert outer.one().data.request == '{"question":"outside"}'
    assert inner.experiment_id == outer.experiment_id


def test_images_are_captured(memory_traces):
    """An image becomes an attachment, which can be read as from any store."""
    dspy.Predict("image: dspy.Image -> answer")(image=dspy.Image(_PIXEL))
    trace = memory_traces.one()
    assert "mlflow-attachment://" in trace.to_json()
    assert _PIXEL not in trace.to_json()
