"""Content that is not to be recorded is nowhere in the store; structure, times, tokens, cost and status are."""

from __future__ import annotations

import dspy
import pytest
from dspy.utils.callback import with_callbacks
from offline_lm import Raw
from openai_server import chat, choice, error, usage
from programs import Program, answering, program_tree
from stored import stored_bytes

from dspy_mlflow_callbacks import MlflowCallback
from dspy_mlflow_callbacks.describe import Capture

CONTENT = "content-of-nobody-4711"
NOTHING = {"capture_inputs": False, "capture_outputs": False, "capture_messages": False}


def captured_by(**options):
    return dspy.context(callbacks=[MlflowCallback(**options)])


def payloads(traces):
    """Return whether the spans of each kind have inputs and outputs."""
    spans = traces.spans()
    kinds = [span.get_attribute("dspy.kind") for span in spans]
    return {kind: (span.inputs is not None, span.outputs is not None) for kind, span in zip(kinds, spans, strict=True)}


ALL = {"module": (True, True), "adapter_format": (True, True), "lm": (True, True), "adapter_parse": (True, True)}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ALL),
        (
            {"capture_inputs": False},
            {**ALL, "module": (False, True), "adapter_format": (False, False), "lm": (False, True)},
        ),
        (
            {"capture_outputs": False},
            {**ALL, "module": (True, False), "lm": (True, False), "adapter_parse": (False, False)},
        ),
        ({"capture_messages": False}, {**dict.fromkeys(ALL, (False, False)), "module": (True, True)}),
        (NOTHING, dict.fromkeys(ALL, (False, False))),
    ],
)
def test_what_each_option_leaves_out(dspy_traces, options, expected):
    """Messages go with the inputs where they are formatted, with the outputs where they are answered and parsed."""
    with captured_by(**options), dspy.context(lm=answering()):
        Program()(question="q")
    assert payloads(dspy_traces) == expected
    assert dspy_traces.tree() == [program_tree()]


class Interpreter:
    """An interpreter as a user writes one."""

    @with_callbacks
    def execute(self, code, variables=None):
        return f"{CONTENT} printed"


class Quotes(dspy.Module):
    """Fails where it is asked for its attributes, and where it runs."""

    def forward(self, question):
        raise ValueError(question)

    def trace_attributes(self):
        raise RuntimeError(CONTENT)


def a_program():
    predict = dspy.ChainOfThought("question -> answer")
    predict.predict.demos = [dspy.Example(question=CONTENT, reasoning=CONTENT, answer=CONTENT)]
    with dspy.context(lm=answering({"reasoning": CONTENT, "answer": CONTENT})):
        predict(question=CONTENT)


def an_agent():
    def search(query: str) -> str:
        return f"{query} found"

    steps = [
        {"next_thought": CONTENT, "next_tool_name": "search", "next_tool_args": f'{{"query": "{CONTENT}"}}'},
        {"next_thought": CONTENT, "next_tool_name": "finish", "next_tool_args": "{}"},
        {"reasoning": CONTENT, "answer": CONTENT},
    ]
    with dspy.context(lm=answering(*steps)):
        dspy.ReAct("question -> answer", tools=[search])(question=CONTENT)


def an_error():
    with pytest.raises(ValueError):
        Quotes()(question=CONTENT)


def an_error_in_a_chain():
    def broken(text: str) -> str:
        try:
            raise ValueError(text)
        except ValueError as error:
            raise RuntimeError(f"{text} again") from error

    with pytest.raises(RuntimeError):
        dspy.Tool(broken)(text=CONTENT)


def a_failed_parse():
    lm = Raw(*[f"{CONTENT} that cannot be parsed"] * 9)
    with dspy.context(lm=lm), pytest.raises(dspy.utils.exceptions.AdapterParseError):
        dspy.Predict("question -> answer")(question=CONTENT)


def code():
    Interpreter().execute(f"print({CONTENT!r})", {"x": CONTENT})


def an_evaluation():
    examples = [dspy.Example(question=CONTENT, answer=CONTENT).with_inputs("question")] * 2
    evaluate = dspy.Evaluate(devset=examples, metric=lambda example, prediction, trace=None: 1.0, num_threads=2)
    with dspy.context(lm=answering({"reasoning": CONTENT, "answer": CONTENT})):
        evaluate(Program(), callback_metadata={"note": CONTENT})


def bytes_and_images():
    with dspy.context(lm=answering({"answer": "a"})):
        dspy.Predict("picture: dspy.Image -> answer")(picture=dspy.Image(f"data:image/png;base64,{'QUFB' * 500}"))


@pytest.mark.parametrize(
    "run", [a_program, an_agent, an_error, an_error_in_a_chain, a_failed_parse, code, an_evaluation, bytes_and_images]
)
def test_no_content_is_stored(dspy_traces, run):
    """With everything left out, no content is in the store's bytes, whatever ran and however it ended."""
    with captured_by(**NOTHING):
        run()
    assert dspy_traces.all()
    stored = stored_bytes(dspy_traces)
    assert CONTENT.encode() not in stored
    assert b"QUFBQUFB" not in stored
    assert b"AAAAAAAAAAAAAAA" not in stored


def test_what_is_kept(openai_server, dspy_traces):
    """With everything left out there are still times, tokens, cost, request parameters and status, also of retries."""
    openai_server.script(error(500, CONTENT), chat(choice(CONTENT), counts=usage(100, 20)))
    lm = openai_server.lm("litellm", temperature=0.5)
    with captured_by(**NOTHING):
        lm(CONTENT, prediction={"type": "content", "content": CONTENT})
    (span,) = dspy_traces.spans()
    assert span.end_time_ns > span.start_time_ns
    assert (span.inputs, span.outputs, span.status.status_code.value) == (None, None, "OK")
    assert span.get_attribute("mlflow.chat.tokenUsage") == {
        "input_tokens": 100,
        "output_tokens": 20,
        "total_tokens": 120,
    }
    assert span.get_attribute("mlflow.llm.cost")["total_cost"] > 0
    assert span.get_attribute("dspy.lm.request")["temperature"] == 0.5
    assert "dspy.lm.retry_errors" not in span.attributes
    assert CONTENT.encode() not in stored_bytes(dspy_traces)


def test_errors_keep_type_and_lines(dspy_traces):
    """An exception whose text is left out still says its type, and the lines of code that it went through."""
    with captured_by(capture_inputs=False):
        an_error()
    (span,) = dspy_traces.spans()
    (event,) = span.events
    assert (span.status.status_code.value, span.status.description) == ("ERROR", "ValueError")
    assert (event.attributes["exception.type"], event.attributes["exception.message"]) == ("ValueError", "")
    assert "in forward\n    raise ValueError(question)\n" in event.attributes["exception.stacktrace"]


def test_wrong_option_is_refused():
    """What is neither true nor false is refused."""
    with pytest.raises(TypeError, match="inputs"):
        Capture(inputs="no")
