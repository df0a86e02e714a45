"""What the recorded engine stores is what MLflow's own exporter stores of the same call: compared field by field."""

from __future__ import annotations

import json
import re
import uuid

import dspy
import litellm  # noqa: F401  (with it MLflow's store asks for prices, without it the package)
import mlflow
import pytest
from mlflow.tracing.constant import TraceMetadataKey
from offline_lm import OfflineLM
from programs import Program, Runs
from test_attachments import PNG, PNG_URI, stored

from dspy_mlflow_callbacks import MlflowCallback, mlflow_internals

ID = re.compile(r"\b(tr-|m-)?[0-9a-f]{32}\b|\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")

# Said by the root's attributes: what MLflow's exporter says in metadata of process and run.
CARRIED_BY_ROOT = (
    "mlflow.user",
    "mlflow.source.name",
    "mlflow.source.type",
    "mlflow.source.git.branch",
    "mlflow.source.git.commit",
    "mlflow.source.git.repoURL",
    "mlflow.source.git.dirty",
    "mlflow.source.git.diff",
    "mlflow.sourceRun",
)

# What MLflow can tell from the spans: the sizes, the root's inputs and outputs once more, and the form it is stored in.
NOT_STORED = (
    "mlflow.trace.sizeBytes",
    "mlflow.trace.sizeStats",
    "mlflow.traceInputs",
    "mlflow.traceOutputs",
    "mlflow.trace_schema.version",
    "mlflow.trace.infoFinalized",
)

# What is counted or measured, and so never the same twice.
MEASURED = ("mlflow.trace.sizeBytes", "mlflow.trace.sizeStats")


@pytest.fixture(params=["sqlite", "server"])
def store(request, tmp_path):
    """Trace into a database, or to a tracking server."""
    if request.param == "sqlite":
        request.getfixturevalue("dspy_traces")
        yield
        return
    uri, name = request.getfixturevalue("server").uri, uuid.uuid4().hex
    with mlflow_internals.store_of_its_own(uri, name, tmp_path / name):
        yield


class Looked(Runs):
    """A module that does what a user does to the running trace, then calls a program."""

    def __init__(self, look):
        def forward(given):
            look()
            return Program()(question=given)

        super().__init__(forward)


def calls(look, given="why?"):
    return lambda: Looked(look)(given)


def fails():
    def forward(given):
        Program()(question=given)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        Runs(forward)("why?")


def in_a_scope():
    session = {TraceMetadataKey.TRACE_SESSION: "session", TraceMetadataKey.TRACE_USER: "ann"}
    with mlflow.tracing.context(tags={"team": "search"}, metadata=session):
        Program()(question="why?")


def in_a_run():
    with mlflow.start_run():
        Program()(question="why?")


def with_a_user_span():
    def look():
        with mlflow.start_span("mine", span_type="TOOL", attributes={"size": 3}) as span:
            span.set_inputs({"a": 1})
            span.set_outputs([1, 2])
            span.add_event(mlflow.entities.SpanEvent("happened", attributes={"where": "here"}))

    calls(look)()


def with_much_of_everything():
    def look():
        mlflow.update_current_trace(tags={"long": "x" * 5000, "odd": 'ä"\n\\\u2028', "empty": ""})

    calls(look, given="ä" * 2000 + "\n\"'\x00")()


def from_another_source():
    calls(lambda: mlflow.update_current_trace(metadata={"mlflow.source.name": "mine.py"}))()


def with_an_image():
    Runs(lambda given: given)(dspy.Image(PNG_URI))


def with_a_model():
    model_id = mlflow.create_external_model(name="model").model_id
    calls(lambda: mlflow.update_current_trace(model_id=model_id))()


def with_a_prompt():
    name = f"prompt-{uuid.uuid4().hex}"
    mlflow.genai.register_prompt(name, "Answer {{question}}")
    calls(lambda: mlflow.genai.load_prompt(f"prompts:/{name}/1"))()


def assessed():
    def look():
        trace_id = mlflow.get_active_trace_id()
        mlflow.log_feedback(trace_id=trace_id, name="good", value=True, rationale="so")
        mlflow.log_expectation(trace_id=trace_id, name="answer", value="42")

    calls(look)()


PLAIN = {
    "a call": lambda: Program()(question="why?"),
    "a failed call": fails,
    "in a scope": in_a_scope,
    "tags": calls(lambda: mlflow.update_current_trace(tags={"a": "1"})),
    "session": calls(lambda: mlflow.update_current_trace(metadata={TraceMetadataKey.TRACE_SESSION: "session"})),
    "a user's span": with_a_user_span,
    "much of everything": with_much_of_everything,
}
"""Traces that are said by spans alone."""

WHOLE = {
    "metadata": calls(lambda: mlflow.update_current_trace(metadata={"mine": "yes"})),
    "another source": from_another_source,
    "client request id": calls(lambda: mlflow.update_current_trace(client_request_id="id")),
    "previews": calls(lambda: mlflow.update_current_trace(request_preview="asked", response_preview="said")),
    "state": calls(lambda: mlflow.update_current_trace(state="ERROR")),
    "model": with_a_model,
    "prompt": with_a_prompt,
    "image": with_an_image,
    "assessments": assessed,
}
"""Traces for which MLflow's store is told more than spans can say."""


def traced(call, engine):
    """Return what the store has of the trace that *call* leaves with an engine."""
    lm = OfflineLM()
    with dspy.context(lm=lm, callbacks=[MlflowCallback(engine=engine)]):
        call()
    mlflow.flush_trace_async_logging()
    return mlflow.get_trace(mlflow.get_last_active_trace_id())


def facts(trace):
    """Return all that is said of a trace, without what differs from call to call."""
    info, spans = trace.info, sorted(trace.data.spans, key=lambda span: span.start_time_ns)
    numbers = {span.span_id: number for number, span in enumerate(spans)}
    root = spans[0]
    said = {
        "tags": info.tags,
        "metadata": {key: text for key, text in info.trace_metadata.items() if key not in MEASURED},
        "state": info.state.value,
        "previews": [_preview(info.request_preview), _preview(info.response_preview)],
        "client_request_id": info.client_request_id,
        "location": info.trace_location.to_dict(),
        "usage": [info.token_usage, info.cost],
        "assessments": sorted(_assessment(each) for each in info.assessments),
        "times": [
            info.request_time == root.start_time_ns // 1_000_000,
            abs(info.execution_duration - (root.end_time_ns - root.start_time_ns) // 1_000_000) <= 1,
        ],
        "spans": [_span(span, numbers) for span in spans],
    }
    return json.loads(ID.sub("<id>", json.dumps(said)))


def _span(span, numbers):
    said = span.to_dict()
    for measured in ("trace_id", "span_id", "start_time_unix_nano", "end_time_unix_nano"):
        del said[measured]
    # How tags, session and user travel: they are compared where they arrive.
    travels = ("mlflow.traceTag.", "session.id", "user.id", "dspy.cpu_time_s")
    said["attributes"] = {
        key: json.loads(text) for key, text in said["attributes"].items() if not key.startswith(travels)
    }
    for event in said["events"]:
        event.pop("time_unix_nano")
    return {**said, "parent_span_id": numbers.get(span.parent_id)}


def _preview(text):
    """Return what a preview says: a server that makes it of the spans writes a space where others write none."""
    try:
        return json.loads(text or "null")
    except ValueError:  # cut off
        return text.replace(" ", "")[:900]


def _assessment(each):
    said = each.to_dictionary()
    return json.dumps([said.get(key) for key in ("assessment_name", "source", "feedback", "expectation", "rationale")])


def said_by_spans(native):
    """Return what the facts of a trace are when spans alone say them."""
    metadata = native["metadata"]
    carried = {key: metadata[key] for key in CARRIED_BY_ROOT if key in metadata}
    root, *rest = native["spans"]
    return {
        **native,
        "spans": [{**root, "attributes": {**root["attributes"], **carried}}, *rest],
        "metadata": {key: text for key, text in metadata.items() if key not in (*CARRIED_BY_ROOT, *NOT_STORED)},
    }


@pytest.mark.parametrize("call", PLAIN.values(), ids=PLAIN)
def test_a_trace_that_spans_say_differs_in_what_the_table_says(store, call):
    """Of a trace that goes in a batch, source and run are the root's, what spans say is absent, the rest equal."""
    native, recorded = facts(traced(call, "native")), facts(traced(call, "recorded"))
    assert recorded == said_by_spans(native)


@pytest.mark.parametrize("call", WHOLE.values(), ids=WHOLE)
def test_a_trace_with_more_to_say_is_equal(store, call):
    """A trace that carries what spans cannot say is stored as MLflow's exporter stores it."""
    native, recorded = facts(traced(call, "native")), facts(traced(call, "recorded"))
    assert recorded == native


def test_the_tables_compare_something(dspy_traces):
    """What the comparison rests on is there: tokens, assessments, metadata, attachments."""
    said = facts(traced(WHOLE["assessments"], "recorded"))
    assert len(said["assessments"]) == 2
    assert said["usage"][0] == {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    assert len(said["spans"]) == 7
    assert facts(traced(WHOLE["metadata"], "recorded"))["metadata"]["mine"] == "yes"
    assert "mlflow-attachment://" in json.dumps(facts(traced(WHOLE["image"], "recorded")))


def test_a_run_has_its_traces(store):
    """A trace made inside a run is found by the run, on both engines."""
    for engine in ("native", "recorded"):
        trace = traced(in_a_run, engine)
        found = mlflow.search_traces(
            locations=[trace.info.experiment_id], run_id=mlflow.last_active_run().info.run_id, return_type="list"
        )
        assert [each.info.trace_id for each in found] == [trace.info.trace_id]


def test_a_prompt_has_its_traces(store):
    """A prompt that was loaded inside a trace is linked to it, on both engines."""
    for engine in ("native", "recorded"):
        trace = traced(with_a_prompt, engine)
        (linked,) = json.loads(trace.info.tags["mlflow.linkedPrompts"])
        assert linked["version"] == "1"


def test_a_binary_output_is_stored_beside_the_trace(store):
    """What an attachment's reference names is in the artifact store, on both engines."""
    for engine in ("native", "recorded"):
        trace = traced(with_an_image, engine)
        reference = trace.data.spans[0].inputs["given"]["url"]
        assert stored(trace.info, reference) == ("image/png", PNG)
