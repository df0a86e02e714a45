"""What adapters' spans say, and what a trace shows when one adapter takes over from another."""

from __future__ import annotations

import dspy
import pytest
from offline_lm import Raw
from programs import answering

from dspy_mlflow_callbacks.describe import describe_start
from dspy_mlflow_callbacks.describe.adapters import fallback_event
from dspy_mlflow_callbacks.events import CallKind, CallStart

JSON_ANSWER = '{"answer": "42"}'


def predict(lm, adapter=None):
    with dspy.context(lm=lm, adapter=adapter):
        return dspy.Predict("question -> answer")(question="q")


def test_format_and_parse(dspy_traces):
    """`format` shows what it was given and the messages it made; `parse` the completion and the fields."""
    predict(answering({"answer": "42"}))
    (format_,) = dspy_traces.spans(kind="adapter_format")
    (parse,) = dspy_traces.spans(kind="adapter_parse")
    assert format_.inputs == {"signature": "question -> answer", "demos": [], "inputs": {"question": "q"}}
    assert [message["role"] for message in format_.outputs] == ["system", "user"]
    assert "[[ ## question ## ]]\nq" in format_.outputs[1]["content"]
    assert parse.inputs["signature"] == "question -> answer"
    assert "[[ ## answer ## ]]\n42" in parse.inputs["completion"]
    assert parse.outputs == {"answer": "42"}
    assert parse.get_attribute("dspy.adapter.raw_completion") is None


def test_demos_are_shown_as_they_are_at_each_call(dspy_traces):
    """`format` shows the demos of its call, also after one was changed in place."""
    predictor = dspy.Predict("question -> answer")
    predictor.demos = [dspy.Example(question="q", answer="a"), {"question": "other", "answer": ["b"]}]
    with dspy.context(lm=answering({"answer": "42"})):
        predictor(question="q")
        predictor.demos[0].answer = "c"
        predictor.demos[1]["answer"].append("d")
        predictor(question="q")
    first, second = (span.inputs["demos"] for span in dspy_traces.spans(kind="adapter_format"))
    assert first == [{"question": "q", "answer": "a"}, {"question": "other", "answer": ["b"]}]
    assert second == [{"question": "q", "answer": "c"}, {"question": "other", "answer": ["b", "d"]}]


def test_adapter_that_is_called_in_another_way():
    """An adapter of the user's own may take anything for a signature and for demos."""
    inputs = {"signature": "question -> answer", "demos": None}
    call = CallStart(kind=CallKind.ADAPTER_FORMAT, call_id="1", root_call_id="1", instance=object(), inputs=inputs)
    assert describe_start(call).inputs == '{"signature":"question -> answer","demos":null}'


@pytest.mark.parametrize(
    ("adapter", "completion"),
    [
        (dspy.JSONAdapter(), JSON_ANSWER),
        (dspy.XMLAdapter(), "<answer>42</answer>"),
        pytest.param("BAMLAdapter", JSON_ANSWER, id="BAMLAdapter"),
    ],
)
def test_nested_format_is_one_span(dspy_traces, adapter, completion):
    """An adapter that formats through its base class, where DSPy emits the event twice, has one span for it."""
    if isinstance(adapter, str):
        from dspy.adapters.baml_adapter import BAMLAdapter

        adapter = BAMLAdapter()
    predict(Raw(completion), adapter)
    name = type(adapter).__name__
    steps = [(f"{name}.format", "PARSER"), ("dummy", "CHAT_MODEL"), (f"{name}.parse", "PARSER")]
    assert dspy_traces.tree() == [("Predict", "CHAIN", "OK", [(step, kind, "OK", []) for step, kind in steps])]


def test_fallback_to_another_adapter(dspy_traces):
    """A failed parse is a failed span with the raw completion, and the Predict says which adapter took over."""
    assert predict(Raw("no fields at all", JSON_ANSWER)).answer == "42"
    assert dspy_traces.tree() == [
        (
            "Predict",
            "CHAIN",
            "OK",
            [
                ("ChatAdapter.format", "PARSER", "OK", []),
                ("dummy", "CHAT_MODEL", "OK", []),
                ("ChatAdapter.parse", "PARSER", "ERROR", []),
                ("JSONAdapter.format", "PARSER", "OK", []),
                ("dummy", "CHAT_MODEL", "OK", []),
                ("JSONAdapter.parse", "PARSER", "OK", []),
            ],
        )
    ]
    predict_span, failed = dspy_traces.spans(kind="module") + dspy_traces.spans(name="ChatAdapter.parse")
    (event,) = predict_span.events
    assert (event.name, event.attributes) == ("adapter_fallback", {"from": "ChatAdapter", "to": "JSONAdapter"})
    assert failed.get_attribute("dspy.adapter.raw_completion") == "no fields at all"
    assert failed.outputs is None
    assert failed.status.description.startswith("AdapterParseError")


def test_no_fallback_event_without_a_fallback(dspy_traces):
    """Predicts that go well one after the other say nothing of a fallback, whatever their adapters."""

    class Twice(dspy.Module):
        def forward(self):
            predict(answering({"answer": "42"}))
            predict(Raw(JSON_ANSWER), dspy.JSONAdapter())

    Twice()()
    assert [span.events for span in dspy_traces.spans(kind="module")] == [[], [], []]


def test_fallback_event():
    """The event of a fallback names both adapters."""
    event = fallback_event("ChatAdapter", "JSONAdapter")
    assert (event.name, event.attributes) == ("adapter_fallback", {"from": "ChatAdapter", "to": "JSONAdapter"})
