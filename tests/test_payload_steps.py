"""Payload steps run on all that leaves with a span, in their order; long payloads are cut."""

from __future__ import annotations

import base64
import hashlib
import json

import dspy
import mlflow
import pytest
from mlflow.tracing.trace_manager import InMemoryTraceManager
from programs import Program, Runs, answering
from stored import stored_bytes

from dspy_mlflow_callbacks import MlflowCallback, Payload, PayloadLimit, Redactor, flush
from dspy_mlflow_callbacks.describe.payloads import to_json
from dspy_mlflow_callbacks.payload import PayloadSteps


def traced_by(*steps):
    return dspy.context(callbacks=[MlflowCallback(payload_steps=steps)])


def test_what_steps_are_asked(dspy_traces):
    """A step is asked for all that leaves with a span, by place and name, but for what is only MLflow's own."""
    seen = set()

    def look(payload):
        seen.add((payload.place, payload.name, payload.is_json))
        return payload

    def note(given):
        span = mlflow.get_current_active_span()
        span.set_attribute("note", 1)
        span._span.set_attribute("several", ["a", "b"])
        span._span.set_attribute("number", 5)
        span.add_event(mlflow.entities.SpanEvent("noted", attributes={"why": "because", "when": 3, "who": ["me"]}))
        mlflow.update_current_trace(
            tags={"team": "a"}, metadata={"run": "b"}, request_preview="p", response_preview="r"
        )
        raise ValueError

    with traced_by(look), pytest.raises(ValueError):
        Runs(note)(given=1)
    places = {place for place, _, _ in seen}
    assert places == {"inputs", "attribute", "event", "error", "tag", "metadata"}
    expected = {
        ("inputs", "inputs", True),
        ("attribute", "note", True),
        ("attribute", "several", True),
        ("attribute", "dspy.class", True),
        ("event", "why", False),
        ("event", "who", True),
        ("event", "exception.message", False),
        ("event", "exception.stacktrace", False),
        ("error", "error", False),
        ("tag", "team", False),
        ("metadata", "run", False),
        ("metadata", "request_preview", False),
        ("metadata", "response_preview", False),
    }
    assert seen >= expected
    names = {name for _, name, _ in seen}
    assert not names & {
        "mlflow.spanType",
        "mlflow.traceRequestId",
        "mlflow.spanInputs",
        "dspy.call_id",
        "number",
        "when",
    }


def test_what_steps_change(dspy_traces):
    """What a step returns is stored in place of what was there, wherever it stood."""

    def louder(payload):
        value = payload.value
        if payload.name.startswith(("mlflow.traceName", "dspy.")):
            return payload
        if isinstance(value, list):
            return payload.with_value([item.upper() for item in value])
        return payload.with_value({"loud": True} if isinstance(value, dict) else str(value).upper())

    def note(given):
        span = mlflow.get_current_active_span()
        span._span.set_attribute("several", ["a", "b"])
        span.add_event(mlflow.entities.SpanEvent("noted", attributes={"why": "because", "who": ["me"]}))
        mlflow.update_current_trace(tags={"team": "a"}, metadata={"run": "b"}, request_preview="p")
        raise ValueError("no")

    with traced_by(louder), pytest.raises(ValueError):
        Runs(note)(given=1)
    (span,) = dspy_traces.spans()
    info = dspy_traces.one().info
    assert span.inputs == {"loud": True}
    assert span.attributes["several"] == ["A", "B"]
    assert (span.events[0].attributes["why"], list(span.events[0].attributes["who"])) == ("BECAUSE", ["ME"])
    assert span.status.description == "VALUEERROR: NO"
    assert (info.tags["team"], info.trace_metadata["run"], info.request_preview) == ("A", "B", "P")


def test_trace_that_mlflow_has_forgotten(dspy_traces):
    """Where MLflow has dropped a trace meanwhile, the steps see the span all the same, and the program goes on."""
    seen = []

    def look(payload):
        seen.append(payload.place)
        return payload

    def forget(given):
        InMemoryTraceManager.reset()
        return given

    with traced_by(look):
        assert Runs(forget)(given=1) == 1
    assert flush()
    assert {"inputs", "outputs"} <= set(seen)


def test_steps_run_in_their_order(dspy_traces):
    """Each step gets what the one before it returned."""

    def add(letter):
        return lambda payload: payload.with_value(payload.value + letter) if payload.place == "outputs" else payload

    with traced_by(add("a"), add("b"), Redactor(patterns=["xab"])):
        Runs(lambda given: "x")()
    (span,) = dspy_traces.spans()
    assert span.outputs == "[redacted]"


@pytest.mark.warns
@pytest.mark.parametrize(
    ("step", "problem"),
    [
        (lambda payload: 1 / 0, "raised ZeroDivisionError"),
        (lambda payload: None, "returned NoneType; allowed is Payload"),
        (lambda payload: payload.with_value(object()), "raised TypeError"),
    ],
)
def test_failing_step_withholds(dspy_traces, warned, step, problem):
    """A step that fails withholds the payload and says so there; it is counted each time and warned of once."""
    step.__name__ = "hide"
    callback = MlflowCallback(payload_steps=[step])
    with dspy.context(callbacks=[callback]):
        Runs(lambda given: "withheld-by-a-step")()
    (span,) = dspy_traces.spans()
    assert (span.outputs, span.status.status_code.value) == (f"[withheld: hide {problem}]", "OK")
    assert b"withheld-by-a-step" not in stored_bytes(dspy_traces)
    assert callback.stats().failed > 1
    assert len(warned.messages) == 1


def test_clearing_step_is_not_asked(dspy_traces):
    """A step that clears all texts of a span at once is not asked for each; its names stand beside the texts."""

    class Clears:
        def __init__(self):
            self.texts = []

        def clears(self, text):
            self.texts.append(text)
            return True

        def __call__(self, payload):
            raise AssertionError

    step = Clears()
    with traced_by(step):
        Runs(lambda given: "an answer")(given=1)
    assert flush()
    (lines,) = [text.splitlines() for text in step.texts if '"inputs"' in text]
    assert {'"inputs":{"given":1}', '"outputs":"an answer"'} <= set(lines)


def test_clears_that_fails(dspy_traces):
    """Where `clears` fails, the step is asked for each payload."""

    class Fails:
        def clears(self, text):
            raise RuntimeError

        def __call__(self, payload):
            return payload.with_value("asked") if payload.place == "outputs" else payload

    with traced_by(Fails()):
        Runs(lambda given: "an answer")()
    (span,) = dspy_traces.spans()
    assert span.outputs == "asked"


def test_steps_are_shown_and_counted():
    """The steps print themselves, and none is none."""
    assert repr(PayloadSteps([PayloadLimit(5)])) == "PayloadSteps([PayloadLimit(max_chars=5)])"
    assert (bool(PayloadSteps()), bool(PayloadSteps([PayloadLimit(5)]))) == (False, True)


def cut(value, limit, *, name="inputs", place="inputs"):
    return PayloadLimit(limit)(Payload(place=place, name=name, text=to_json(value))).value


def note(text):
    return f"[cut: {len(text)} characters, sha256 {hashlib.sha256(text.encode()).hexdigest()[:16]}]"


NUMBERS = list(range(500))


@pytest.mark.parametrize(
    ("value", "surplus", "expected"),
    [
        ("x" * 100, 0, "x" * 100),
        ("x" * 500, 402, f"{'x' * 100}… {note('x' * 500)}"),
        ("x" * 30, 27, f"xxxxx… {note('x' * 30)}"),
        (
            ["a" * 500, "b" * 200, "c" * 50],
            350,
            [f"{'a' * 175}… {note('a' * 500)}", f"{'b' * 175}… {note('b' * 200)}", "c" * 50],
        ),
        ({"a": {"b": ["x" * 1000]}, "n": 1}, 800, {"a": {"b": [f"{'x' * 200}… {note('x' * 1000)}"]}, "n": 1}),
        (NUMBERS, len(to_json(NUMBERS)) - 20, f"{to_json(NUMBERS)[:20]}… {note(to_json(NUMBERS))}"),
    ],
)
def test_long_payloads_are_cut(value, surplus, expected):
    """The longest texts of a payload are cut, each with its length and digest; without long texts it becomes one."""
    assert cut(value, len(to_json(value)) - surplus) == expected


def test_cut_payload_is_short():
    """What is left has no more characters than the limit, but for the notes."""
    value = {f"key {index}": '"\\ü' * index for index in range(100)}
    text = PayloadLimit(3000)(Payload(place="inputs", name="inputs", text=json.dumps(value))).text
    notes = text.count("[cut: ")
    assert notes > 0
    assert len(text) <= 3000 + 60 * notes


def test_texts_that_are_no_json_are_cut():
    """Messages keep their beginning, stack traces their end; an attribute that is no JSON is a text."""
    text = "abc" * 100
    limit = PayloadLimit(6)
    shown = {
        name: limit(Payload(place="event", name=name, text=text, is_json=is_json)).text
        for name, is_json in (("exception.message", False), ("exception.stacktrace", False), ("other", True))
    }
    beginning = f"abcabc… {note(text)}"
    assert shown == {
        "exception.message": beginning,
        "exception.stacktrace": f"{note(text)} …abcabc",
        "other": beginning,
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mlflow.chat.tokenUsage", {"input_tokens": 10, "output_tokens": 20}),
        ("mlflow.llm.cost", {"total_cost": 0.25}),
        ("mlflow.message.format", "openai"),
        ("mlflow.llm.model", "gpt-4o-mini"),
    ],
)
def test_what_mlflow_counts_with_is_whole(name, value):
    """What MLflow reads to count tokens and prices and to show a chat stays whole at any limit."""
    assert cut(value, 1, name=name, place="attribute") == value


@pytest.mark.parametrize("place", ["tag", "metadata"])
def test_tags_are_not_cut(place):
    """Tags and metadata have MLflow's limits, and a session that is cut would be another session."""
    payload = Payload(place=place, name="mlflow.trace.session", text="s" * 200, is_json=False)
    assert PayloadLimit(5)(payload) is payload


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (0, ValueError, "max_chars must be at least 1 character, got 0"),
        (True, TypeError, "max_chars must be a number of characters, got True"),
        ("5", TypeError, "max_chars must be a number of characters, got '5'"),
    ],
)
def test_wrong_limit_is_refused(value, error, message):
    """A limit that is none is refused by name."""
    with pytest.raises(error, match=message):
        PayloadLimit(value)


def test_chat_stays_a_chat(dspy_traces):
    """With a limit the LM's messages and answer are messages still, tokens are counted, and the trace has a preview."""
    question = "why? " * 2000
    with dspy.context(lm=answering(), callbacks=[MlflowCallback(max_payload_chars=600)]):
        Program()(question=question)
    (span,) = dspy_traces.spans(kind="lm")
    assert [message["role"] for message in span.inputs["messages"]] == ["system", "user"]
    assert all("… [cut: " in message["content"] for message in span.inputs["messages"])
    assert span.outputs["choices"][0]["message"]["role"] == "assistant"
    info = dspy_traces.one().info
    assert span.get_attribute("mlflow.chat.tokenUsage") == info.token_usage
    assert "… [cut: " in info.request_preview
    assert max(len(text) for span in dspy_traces.spans() for text in map(json.dumps, span.attributes.values())) < 900


def test_attachments_survive(dspy_traces):
    """References to attachments are neither redacted nor cut, and the artifact is there."""
    picture = base64.b64encode(bytes(range(256)) * 8).decode()
    with dspy.context(callbacks=[MlflowCallback(max_payload_chars=100)]):
        Runs(lambda given: [dspy.Image(f"data:image/png;base64,{picture}"), "x" * 500])()
    (span,) = dspy_traces.spans()
    image, text = span.outputs
    assert image["url"].startswith("mlflow-attachment://")
    assert "content_type=image%2Fpng" in image["url"]
    assert text.endswith(note("x" * 500))
    assert bytes(range(256)) * 8 in stored_bytes(dspy_traces)
