"""What the spans of code interpreters say."""

from __future__ import annotations

import pytest
from dspy.primitives import FinalOutput
from dspy.utils.callback import with_callbacks


class Interpreter:
    """An interpreter as a user writes one: it answers code by what the code is."""

    def __init__(self, tools=None, answers=None):
        self.tools = tools or {}
        self.answers = answers or {}

    @with_callbacks
    def start(self):
        return None

    @with_callbacks
    def invoke_tool(self, tool_name, args, kwargs):
        return self.tools[tool_name](*args, **kwargs)

    @with_callbacks
    def execute(self, code, variables=None):
        self.start()
        return self.answers[code](self)

    @with_callbacks
    def shutdown(self):
        return None


def fails(interpreter):
    raise SyntaxError("no")


@pytest.mark.parametrize(
    ("answer", "outputs"),
    [
        ("printed\n", {"stdout": "printed\n"}),
        (FinalOutput({"answer": 42}), {"final_output": {"answer": 42}}),
        (5, {"value": 5}),
        (None, {"value": None}),
    ],
)
def test_execution_says_what_came_out(dspy_traces, answer, outputs):
    """The span of an execution has the code and tells what it printed from what it submitted or evaluated to."""
    interpreter = Interpreter(answers={"code": lambda _: answer})
    interpreter.execute("code", {"x": 1})
    (span,) = dspy_traces.spans(kind="interpreter_execute")
    assert (span.name, span.span_type) == ("execute", "TOOL")
    assert (span.inputs, span.outputs) == ({"code": "code", "variables": {"x": 1}}, outputs)
    assert span.get_attribute("dspy.class") == f"{__name__}.Interpreter"


def test_failed_execution(dspy_traces):
    """Code that fails has a failed span with the code and no output."""
    with pytest.raises(SyntaxError):
        Interpreter(answers={"code": fails}).execute("code")
    (span,) = dspy_traces.spans(kind="interpreter_execute")
    assert (span.inputs, span.outputs) == ({"code": "code", "variables": None}, None)
    assert span.status.description == "SyntaxError: no"


def search(query, top_k=1):
    return [query] * top_k


def test_operations_of_an_interpreter(dspy_traces):
    """Start-up, tool calls and shut-down are spans of their own, each below what called for it."""
    answers = {"code": lambda own: own.invoke_tool("search", ["q"], {"top_k": 2})}
    interpreter = Interpreter({"search": search}, answers)
    interpreter.execute("code")
    interpreter.shutdown()
    from dspy_mlflow_callbacks.testing.captured import tree

    assert [tree(trace) for trace in dspy_traces.all()] == [
        [("execute", "TOOL", "OK", [("startup", "TASK", "OK", []), ("tool_call search", "TOOL", "OK", [])])],
        [("shutdown", "TASK", "OK", [])],
    ]
    (call,) = dspy_traces.spans(kind="interpreter_tool_call")
    assert call.inputs == {"tool_name": "search", "args": ["q"], "kwargs": {"top_k": 2}}
    assert call.outputs == ["q", "q"]


def test_dspys_own_interpreter(dspy_traces):
    """`dspy.LocalInterpreter` runs code that prints, calls a tool and submits."""
    local_interpreter = pytest.importorskip("dspy.primitives.local_interpreter", reason="it came with DSPy 3.4")
    interpreter = local_interpreter.LocalInterpreter(tools={"search": search})
    interpreter.execute("print('hello')")
    interpreter.execute("SUBMIT(search('q', top_k=2))")
    interpreter.shutdown()
    executions = dspy_traces.spans(kind="interpreter_execute")
    assert [span.inputs["code"] for span in executions] == ["print('hello')", "SUBMIT(search('q', top_k=2))"]
    assert "hello" in str(executions[0].outputs["stdout"])
    assert list(executions[1].outputs) == ["final_output"]
    (call,) = dspy_traces.spans(kind="interpreter_tool_call")
    assert (call.name, call.outputs, call.parent_id) == ("tool_call search", ["q", "q"], executions[1].span_id)
    (startup,) = dspy_traces.spans(kind="interpreter_startup")
    (shutdown,) = dspy_traces.spans(kind="interpreter_shutdown")
    assert [startup.name, shutdown.name] == ["startup", "shutdown"]
