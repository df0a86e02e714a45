"""What tools' spans say."""

from __future__ import annotations

import asyncio

import dspy
import pydantic
import pytest


def finish(answer: str) -> str:
    """End the work."""
    return answer.upper()


def packed(args: list, kwargs: dict) -> list:
    return [args, kwargs]


def broken(query: str) -> str:
    raise LookupError(query)


async def later(query: str) -> str:
    """Answer later."""
    await asyncio.sleep(0)
    return query * 2


@pytest.mark.parametrize(
    ("function", "arguments", "outputs"),
    [
        (finish, {"answer": "a"}, "A"),
        (packed, {"args": [1], "kwargs": {"x": 2}}, [[1], {"x": 2}]),
    ],
)
def test_tool_is_recorded_whatever_its_names(dspy_traces, function, arguments, outputs):
    """A tool named `finish` and arguments named `args` and `kwargs` are recorded like any others."""
    dspy.Tool(function)(**arguments)
    assert dspy_traces.tree() == [(function.__name__, "TOOL", "OK", [])]
    (span,) = dspy_traces.spans()
    assert (span.inputs, span.outputs) == (arguments, outputs)


def test_description_and_schema(dspy_traces):
    """A tool shows its description and the schema of its arguments."""
    dspy.Tool(finish)(answer="a")
    (span,) = dspy_traces.spans()
    assert span.get_attribute("dspy.tool.description") == "End the work."
    assert span.get_attribute("dspy.tool.args") == {"answer": {"type": "string"}}


def test_changed_schema_is_seen(dspy_traces):
    """A schema that is changed in place, or replaced, and a new description show at the next call."""
    tool = dspy.Tool(finish)
    tool(answer="a")
    tool.args["answer"]["description"] = "The answer."
    tool(answer="a")
    tool.args, tool.desc = {"answer": {"description": "Or another."}}, "Stop."
    tool(answer="a")
    spans = dspy_traces.spans()
    assert [span.get_attribute("dspy.tool.args") for span in spans] == [
        {"answer": {"type": "string"}},
        {"answer": {"type": "string", "description": "The answer."}},
        {"answer": {"description": "Or another."}},
    ]
    assert [span.get_attribute("dspy.tool.description") for span in spans] == ["End the work."] * 2 + ["Stop."]


def test_raising_tool(dspy_traces):
    """A tool that raises has a failed span with its arguments and the exception, which the caller gets."""
    with pytest.raises(LookupError):
        dspy.Tool(broken)(query="q")
    (span,) = dspy_traces.spans()
    assert (span.inputs, span.outputs) == ({"query": "q"}, None)
    assert span.status.description == "LookupError: q"
    assert [event.attributes["exception.type"] for event in span.events] == ["LookupError"]


def test_async_tool(dspy_traces):
    """An async tool's span has what was awaited, not the coroutine."""
    assert asyncio.run(dspy.Tool(later).acall(query="q")) == "qq"
    (span,) = dspy_traces.spans()
    assert (span.name, span.inputs, span.outputs) == ("later", {"query": "q"}, "qq")


def test_tools_of_an_agent(dspy_traces):
    """A ReAct's tools are spans below it, its own `finish` too."""
    from programs import answering, tool_call

    lm = answering(
        tool_call("broken", query="q"),
        tool_call("finish"),
        {"reasoning": "r", "answer": "a"},
    )
    with dspy.context(lm=lm):
        dspy.ReAct("question -> answer", tools=[broken])(question="q")
    (root,) = dspy_traces.spans(name="ReAct")
    tools = dspy_traces.spans(kind="tool")
    assert [(tool.name, tool.status.status_code, tool.parent_id) for tool in tools] == [
        ("broken", "ERROR", root.span_id),
        ("finish", "OK", root.span_id),
    ]


class Weather(pydantic.BaseModel):
    degrees: int


@pytest.mark.parametrize(
    ("result", "named"),
    [
        ({"a": [1, None, "x"]}, None),
        (None, None),
        (Weather(degrees=3), f"{__name__}.Weather"),
        ([Weather(degrees=3)], "builtins.list"),
        ((1, 2), "builtins.tuple"),
    ],
)
def test_a_result_that_is_no_json_names_its_class(dspy_traces, result, named):
    """What JSON does not hold as it was names its class: who reads the outputs knows that they are a description."""

    def give():
        return result

    dspy.Tool(give)()
    (span,) = dspy_traces.spans()
    assert span.get_attribute("dspy.tool.result_type") == named
