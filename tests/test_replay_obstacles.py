"""What cannot be replayed is said before anything runs: what it is, where, and what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import dspy
import mlflow
import pydantic
import pytest
from mlflow.entities import Trace
from replays import AtOnce, Look, Steps, counting, fields, record, replay, seen
from stored import tracking_to

from dspy_mlflow_callbacks import MlflowCallback, PayloadLimit, ReplayError

WHY = {"question": "why?"}
LONG = {"question": "why? " * 100}


class Ran(Steps):
    """Notes that it ran."""

    ran = 0

    def forward(self, question):
        Ran.ran += 1
        return super().forward(question)


Ran.__name__ = "Steps"


def refused(trace, program=None, **options):
    """Return why a replay is refused, and see that nothing ran."""
    Ran.ran = 0
    with pytest.raises(ReplayError) as error:
        replay(trace, Ran() if program is None else program, **options)
    assert Ran.ran == 0
    return str(error.value)


def recorded(traces, program=Steps, inputs=WHY, lm=None, **options):
    callback = MlflowCallback(config=traces_config(), **options)
    return record(traces, lambda: program()(**inputs), lm, callbacks=[callback])[0]


def traces_config():
    (callback,) = dspy.settings.callbacks
    return callback.config


def steps(traces, **options):
    return recorded(traces, **options)


def broken_step(payload):
    if payload.place == "outputs":
        raise ValueError("no")
    return payload


INCOMPLETE = {
    "no outputs": ({"capture_outputs": False}, "Steps.first > dummy", "`capture_outputs` and `capture_messages` on"),
    "no messages": ({"capture_messages": False}, "Steps.first > dummy", "`capture_outputs` and `capture_messages` on"),
    "no inputs": ({"capture_inputs": False}, "Steps", "`capture_inputs` on, or give the program's inputs with inputs="),
    "redacted answers": ({"redact_fields": ["content"]}, "Steps.first > dummy", "its answer was redacted; record it"),
    "redacted inputs": ({"redact_fields": ["question"]}, "Steps", "its input 'question' was redacted; record it"),
    "a failed step": ({"payload_steps": [broken_step]}, "Steps.first > dummy", "its answer was withheld, because"),
    "no LM spans": ({"events": ["module"]}, "Steps.first", "its LM call has no span; record it without an `events`"),
}


@pytest.mark.warns
@pytest.mark.parametrize(("options", "span", "said"), INCOMPLETE.values(), ids=INCOMPLETE)
def test_what_was_not_recorded_is_named(dspy_traces, options, span, said):
    """Each span that lacks what a replay needs is named, with the option that would record it."""
    trace = recorded(dspy_traces, **options)
    message = refused(trace)
    assert (f"{span} (span " in message, said in message) == (True, True), message


def test_what_was_cut_is_named(dspy_traces):
    """An answer that was cut cannot be given, and neither can an input."""
    lm = dspy.utils.DummyLM([{"answer": "42 " * 300}] * 2)
    message = refused(recorded(dspy_traces, inputs=LONG, lm=lm, payload_steps=[PayloadLimit(300)]))
    assert "Steps (span " in message
    assert "its input 'question' was cut; record it with a larger `max_payload_chars`" in message
    assert message.count("its answer was cut") == 2


def test_cut_and_redacted_prompts_are_compared_as_far_as_they_go(dspy_traces):
    """A prompt that was cut is known by its digest, a redacted one by the rest: equal ones are no divergence."""
    for options in ({"payload_steps": [PayloadLimit(400)]}, {"redact_patterns": ["objective"]}):
        trace = recorded(dspy_traces, **options)
        assert replay(trace, Steps()).divergences == ()
        program = Steps()
        program.first.signature = program.first.signature.with_instructions("Otherwise.")
        (divergence,) = replay(trace, program).divergences
        assert (divergence.kind, divergence.field) == ("prompt", "messages[0] (system)")


def test_prompts_that_were_not_recorded_are_served_leniently(dspy_traces):
    """Strict needs the prompts to compare; lenient goes by place and turn."""
    trace = recorded(dspy_traces, capture_inputs=False)
    message = refused(trace, inputs=WHY)
    assert "its messages were not recorded; record it with `capture_inputs`" in message
    assert "mode='lenient'" in message
    again = replay(trace, Steps(), inputs=WHY, mode="lenient")
    assert fields(again.outputs) == {"answer": "answer 1"}


@pytest.mark.warns
def test_a_withheld_prompt_is_named(dspy_traces):
    """A prompt whose payload step failed cannot be compared."""

    def no_prompts(payload):
        if "messages" in payload.text[:20]:
            raise ValueError("no")
        return payload

    message = refused(recorded(dspy_traces, payload_steps=[no_prompts]))
    assert "what it was asked was withheld, because a payload step failed" in message


class Weather(pydantic.BaseModel):
    degrees: int


class Asks(dspy.Module):
    """Asks a tool."""

    def __init__(self, function):
        super().__init__()
        self.tool = dspy.Tool(function)

    def forward(self):
        return self.tool().degrees


def weather():
    return Weather(degrees=3)


def annotated() -> Weather:
    return Weather(degrees=3)


class Station:
    """Says what the weather is, when called."""

    __name__ = "Station"

    def __call__(self):
        return weather()


@pytest.mark.parametrize("function", [weather, Station()], ids=["a function", "an object"])
def test_a_tools_object_cannot_be_made_again_without_its_type(dspy_traces, function):
    """A tool that returned an object needs an annotation that says which, or to run."""
    trace = recorded(dspy_traces, lambda: Asks(function), {})
    message = refused(trace, Asks(function))
    assert f"Asks > {function.__name__} (span " in message
    assert "annotate what the tool returns, or use tools='live'" in message
    assert replay(trace, Asks(function), tools="live").outputs == 3
    assert "annotate what the tool returns" in refused(trace, lambda: None)


def test_a_tools_object_is_made_again_of_its_type(dspy_traces):
    """A tool that is annotated returns an object of that type again."""
    trace = recorded(dspy_traces, lambda: Asks(annotated), {})
    again = replay(trace, Asks(annotated))
    assert (again.divergences, again.outputs) == ((), 3)


def test_a_tools_missing_result_is_named(dspy_traces):
    """A result that was redacted is named, with the way around it."""

    def secret() -> dict:
        return {"degrees": "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789"}

    class Uses(Asks):
        def forward(self):
            return self.tool()["degrees"]

    trace = recorded(dspy_traces, lambda: Uses(secret), {})
    message = refused(trace, Uses(secret))
    assert "its result was redacted; record it with `redact=False`" in message
    assert "or use tools='live'" in message


def test_attachments_that_are_elsewhere_are_named(dspy_traces, tmp_path):
    """An image that cannot be read here is an obstacle where it is an input, and none where it is compared."""
    trace = recorded(dspy_traces, Look, seen())
    artifacts = Path(trace.info.tags["mlflow.artifactLocation"].removeprefix("file://"))
    moved = artifacts.rename(tmp_path / "moved")
    message = refused(trace, Look())
    assert "its input 'picture' has an attachment that cannot be read here" in message
    assert "its input 'sounds' has an attachment" in message
    assert replay(trace, Look(), inputs=seen()).is_equal
    moved.rename(artifacts)
    assert replay(trace, Look()).is_equal


def test_unknown_ids_are_refused(dspy_traces):
    """An id that the store does not have is named with the store; so is one that is none."""
    for trace_id in ("tr-0123456789abcdef0123456789abcdef", "Steps"):
        message = refused(trace_id)
        assert f"Trace {trace_id} cannot be replayed: the store at {mlflow.get_tracking_uri()} does not" in message
        assert "look for its id with mlflow.search_traces" in message


def test_a_store_that_is_away_is_named(dspy_traces, monkeypatch):
    """Where the store does not answer, the message says which and why."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with tracking_to("http://127.0.0.1:9"):
        message = refused("tr-0123456789abcdef0123456789abcdef")
    assert "the store at http://127.0.0.1:9" in message
    assert "set the tracking URI" in message


def edited(trace, edit):
    """Return a trace whose spans, as JSON, were changed."""
    said = json.loads(trace.to_json())
    edit(said["data"]["spans"])
    return Trace.from_json(json.dumps(said))


def test_spans_with_clocks_of_their_own_are_put_in_order(dspy_traces):
    """A span that began before its parent, by another machine's clock, is in its place."""

    def set_back(spans):
        for span in spans:
            if span["name"] == "Steps.second":
                span["start_time_unix_nano"] -= 10**12

    assert replay(edited(recorded(dspy_traces), set_back), Steps()).is_equal


@pytest.mark.warns
def test_a_failed_middleware_is_named(dspy_traces):
    """A tool's result that a middleware withheld is an obstacle."""

    class Failing:
        def __call__(self, call):
            return call

        def on_end(self, end):
            if end.outputs == 3:
                raise ValueError("no")
            return end

    class Uses(Asks):
        def forward(self):
            return self.tool() + 1

    def three() -> int:
        return 3

    with pytest.raises(ReplayError, match="its result was withheld, because a middleware failed"):
        replay(recorded(dspy_traces, lambda: Uses(three), {}, middleware=[Failing()]), Uses(three))


def test_inputs_that_do_not_fit_their_annotations_stay(dspy_traces):
    """An input becomes what its annotation says where it can, and stays as it was recorded where not."""

    class Typed(Steps):
        def forward(self, question: Literal["how?"]):
            return super().forward(question)

    class Misnamed(Steps):
        def forward(self, question: "Nowhere"):  # noqa: F821, UP037  (it cannot be found)
            return super().forward(question)

    for program in (Typed, Misnamed):
        program.__name__ = "Steps"
        assert replay(recorded(dspy_traces), program()).is_equal


def test_half_a_trace_is_refused(dspy_traces):
    """A trace without its root, or one that runs still, is not replayed."""
    trace = recorded(dspy_traces)
    root = next(span for span in trace.data.spans if span.parent_id is None)
    trace.data.spans.remove(root)
    message = refused(trace)
    assert f"of spans {root.span_id} only those below them are there" in message
    assert "flush()" in message
    trace = recorded(dspy_traces)
    trace.info.state = mlflow.entities.TraceState.IN_PROGRESS
    assert "it has not ended" in refused(trace)


def test_traces_of_others_are_refused(dspy_traces):
    """A trace of another tool, or none of a program, says what can be replayed."""
    with mlflow.start_span("theirs"):
        pass
    (trace,) = dspy_traces.all()
    assert "none of its 1 spans is of this package" in refused(trace)
    assert "it has no spans" in refused(Trace(trace.info, mlflow.entities.TraceData(spans=[])))
    lm = counting()
    only_lm, _ = record(dspy_traces, lambda: lm("hi"))
    assert "it is a call of lm dummy, not of a program" in refused(only_lm)


def test_two_programs_in_a_trace_are_refused(dspy_traces):
    """A user's trace around two programs is not one call; around one it is replayed."""

    def run(times):
        with mlflow.start_span("mine"):
            for _ in range(times):
                Steps()(**WHY)

    two, _ = record(dspy_traces, lambda: run(2))
    message = refused(two)
    assert "it holds 2 calls of programs (Steps (span " in message
    one, _ = record(dspy_traces, lambda: run(1))
    assert replay(one, Steps()).is_equal


def test_another_program_is_refused(dspy_traces):
    """A program of another class is named, and so is one that does not take the recorded inputs."""
    trace = recorded(dspy_traces)
    assert "it is a trace of Steps, and the program given is a AtOnce" in refused(trace, AtOnce())
    message = refused(trace, dspy.Predict("passage -> answer"), mode="lenient")
    assert "was given question, which the program given does not take" in message

    class Other(Steps):
        def forward(self, passage):
            return None

    Other.__name__ = "Steps"
    assert "which the program given does not take" in refused(trace, Other())


WRONG = {
    "a mode": ({"mode": "exact"}, ValueError, "mode must be one of strict, lenient, live, got 'exact'"),
    "tools": ({"tools": "none"}, ValueError, "tools must be one of recorded, live, got 'none'"),
    "a span without live": ({"from_span": "Steps"}, ValueError, "from_span goes with mode='live'"),
    "an LM without live": ({"lm": 7}, ValueError, "lm goes with mode='live', and the mode is 'strict'"),
    "an unknown span": (
        {"mode": "live", "from_span": "Step"},
        ValueError,
        "has no span 'Step' to go on from; it has St",
    ),
    "inputs": ({"inputs": ["why?"]}, TypeError, "inputs must be a mapping of arguments by name"),
    "no LM": (
        {"mode": "live", "lm": "openai/gpt-4o-mini"},
        TypeError,
        "lm must be a dspy.LM, got 'openai/gpt-4o-mini'",
    ),
    "live without an LM": ({"mode": "live"}, ValueError, "give one with lm=, or configure one"),
}


@pytest.mark.parametrize(("options", "error", "said"), WRONG.values(), ids=WRONG)
def test_wrong_arguments_are_refused(dspy_traces, options, error, said):
    """An argument that is not allowed is named with what is."""
    trace = recorded(dspy_traces)
    with dspy.context(lm=None), pytest.raises(error, match="replay") as raised:
        replay(trace, Steps(), **options)
    assert said in str(raised.value)


@pytest.mark.parametrize("what", [7, None])
def test_what_is_no_trace_is_refused(what):
    """A trace is an id, a trace or a file."""
    with pytest.raises(TypeError, match="allowed is a trace's id"):
        replay(what)


@pytest.mark.parametrize("program", [Steps, "app:program"])
def test_what_is_no_program_is_refused(dspy_traces, program):
    """A program is a module or a function; its class or its name is none."""
    with pytest.raises(TypeError, match=r"program must be a dspy\.Module or a function"):
        replay(recorded(dspy_traces), program)


def test_a_file_replays(dspy_traces, tmp_path):
    """A trace that was exported as JSON replays from its file; what is no trace says what to write."""
    trace = recorded(dspy_traces)
    file = tmp_path / "trace.json"
    file.write_text(trace.to_json())
    for path in (file, str(file)):
        again = replay(path, Steps())
        assert (again.of, again.is_equal) == (trace.info.trace_id, True)
    file.write_text(json.dumps({"info": 1}))
    assert "the file holds no trace: write it with `Path(file).write_text(trace.to_json())`" in refused(file)
    assert "the file cannot be read" in refused(str(tmp_path / "nowhere.json"))


def test_a_stored_trace_replays_by_its_id(dspy_traces):
    """An id is looked up in the store, also while the trace waits for being stored."""
    with dspy.context(lm=counting()):
        Steps()(**WHY)
    again = replay(mlflow.get_last_active_trace_id(), Steps())
    assert again.is_equal
