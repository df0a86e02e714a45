"""Agents: one call is one trace, with every thought, tool and line of code in its place."""

from __future__ import annotations

import asyncio
import contextlib
import io

import dspy
import pytest
from dspy.primitives import FinalOutput
from dspy.primitives.code_interpreter import CodeExecutionError
from dspy.utils.callback import with_callbacks
from dspy.utils.exceptions import AdapterParseError
from expected import UNPARSED, chain_of_thought, failed, ok
from programs import answering, predict_tree, tool_call

needs_local_interpreter = pytest.mark.skipif(
    not hasattr(dspy, "LocalInterpreter"), reason="dspy.LocalInterpreter came with dspy 3.4; before, RLM needs Deno"
)
needs_async_react_v2 = pytest.mark.skipif(
    not hasattr(dspy.ReActV2, "aforward"), reason="dspy.ReActV2 has no async call before dspy 3.4"
)


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def finish(args: str) -> str:
    """Finish, with an argument named as DSPy names what it packs."""
    return f"finished with {args}"


class _SubmittedError(Exception):
    """How `SUBMIT` leaves the code."""


class InProcessInterpreter:
    """The smallest interpreter that DSPy takes; on every version it runs without Deno."""

    def __init__(self) -> None:
        self.tools = {}
        self._globals = {"SUBMIT": self._submit}

    @staticmethod
    def _submit(*args, **kwargs):
        raise _SubmittedError(kwargs or args[0])

    @with_callbacks
    def start(self):
        pass

    @with_callbacks
    def execute(self, code, variables=None):
        self._globals.update(variables or {}, **self.tools)
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                exec(code, self._globals)
        except _SubmittedError as submitted:
            return FinalOutput(*submitted.args)
        except NameError as error:
            raise CodeExecutionError(str(error)) from error
        return printed.getvalue()

    @with_callbacks
    def shutdown(self):
        self._globals.clear()


def native_tool_call(name, **args):
    return {"next_thought": "think", "tool_calls": {"tool_calls": [{"name": name, "args": args}]}}


EXTRACTED = {"reasoning": "because", "answer": "3"}


def call(program, **inputs):
    return program(**inputs)


def acall(program, **inputs):
    return asyncio.run(program.acall(**inputs))


@pytest.mark.parametrize("how", [call, acall])
def test_react_is_one_trace(dspy_traces, how):
    """A ReAct's call is one AGENT trace with its thoughts, its tools and the final extraction side by side."""
    lm = answering(tool_call("add", a=1, b=2), tool_call("finish"), EXTRACTED)
    with dspy.context(lm=lm):
        prediction = how(dspy.ReAct("question -> answer", tools=[add]), question="1 + 2?")
    assert prediction.answer == "3"
    thought = predict_tree("ReAct.react")
    steps = [thought, ok("add", "TOOL"), thought, ok("finish", "TOOL"), chain_of_thought("ReAct.extract")]
    assert dspy_traces.tree() == [ok("ReAct", "AGENT", *steps)]


@pytest.mark.parametrize("how", [call, pytest.param(acall, marks=needs_async_react_v2)])
def test_react_v2_is_one_trace(dspy_traces, how):
    """A ReActV2's call is one AGENT trace that ends with the tool `submit`."""
    lm = answering(native_tool_call("add", a=1, b=2), native_tool_call("submit", answer="3"))
    with dspy.context(lm=lm):
        prediction = how(dspy.ReActV2("question -> answer", tools=[add]), question="1 + 2?")
    assert prediction.answer == "3"
    thought = predict_tree("ReActV2.react")
    steps = [thought, ok("add", "TOOL"), thought, ok("submit", "TOOL")]
    assert dspy_traces.tree() == [ok("ReActV2", "AGENT", *steps)]


@pytest.mark.parametrize("how", [call, acall])
def test_a_tool_that_raises_fails_alone(dspy_traces, how):
    """A tool that raises has an error status; the agent that goes on has not."""

    def divide(a: int) -> float:
        return a / 0

    lm = answering(tool_call("divide", a=1), tool_call("finish"), EXTRACTED)
    with dspy.context(lm=lm):
        how(dspy.ReAct("question -> answer", tools=[divide]), question="1 / 0?")
    thought = predict_tree("ReAct.react")
    steps = [thought, failed("divide", "TOOL"), thought, ok("finish", "TOOL"), chain_of_thought("ReAct.extract")]
    assert dspy_traces.tree() == [ok("ReAct", "AGENT", *steps)]


def test_tool_names_and_argument_names_are_the_tools_own(dspy_traces):
    """A tool named `finish` with an argument named `args` is recorded as any other."""
    lm = answering(native_tool_call("finish", args="all"), native_tool_call("submit", answer="3"))
    with dspy.context(lm=lm):
        dspy.ReActV2("question -> answer", tools=[finish])(question="done?")
    (tool,) = dspy_traces.spans(name="finish")
    assert (tool.inputs, tool.outputs) == ({"args": "all"}, "finished with all")


@pytest.mark.parametrize("num_threads", [1, 2])
def test_modules_that_a_tool_calls_are_below_the_tool(dspy_traces, num_threads):
    """Modules that a tool calls, in its own or in DSPy's worker threads, are spans below the tool's."""

    def ask(question: str) -> list[str]:
        """Ask two experts."""
        expert = dspy.Predict("question -> answer")
        parallel = dspy.Parallel(num_threads=num_threads, disable_progress_bar=True)
        return [answer.answer for answer in parallel([(expert, {"question": question})] * 2)]

    opinion = {"answer": "3"}
    lm = answering(tool_call("ask", question="why?"), opinion, opinion, tool_call("finish"), EXTRACTED)
    with dspy.context(lm=lm):
        dspy.ReAct("question -> answer", tools=[ask])(question="why?")
    thought = predict_tree("ReAct.react")
    asked = ok("ask", "TOOL", predict_tree(), predict_tree())
    steps = [thought, asked, thought, ok("finish", "TOOL"), chain_of_thought("ReAct.extract")]
    assert dspy_traces.tree() == [ok("ReAct", "AGENT", *steps)]


def test_an_agent_that_fails_is_one_failed_trace(dspy_traces):
    """An error below an agent ends every span above it with an error status and reaches the caller."""
    lm = answering(tool_call("finish"), {"answer": "no reasoning"}, times=1)
    with dspy.context(lm=lm), pytest.raises(AdapterParseError):
        dspy.ReAct("question -> answer", tools=[add])(question="1 + 2?")
    extract = failed("ReAct.extract", "CHAIN", failed("ReAct.extract.predict", "CHAIN", *UNPARSED))
    steps = [predict_tree("ReAct.react"), ok("finish", "TOOL"), extract]
    assert dspy_traces.tree() == [failed("ReAct", "AGENT", *steps)]


def test_code_act_is_one_trace(dspy_traces):
    """A CodeAct's call is one AGENT trace: tools defined, code written and run, interpreter shut down."""
    lm = answering({"generated_code": "print(add(1, 2))", "finished": True}, EXTRACTED)
    with dspy.context(lm=lm):
        prediction = dspy.CodeAct("question -> answer", tools=[add], interpreter_factory=InProcessInterpreter)(
            question="1 + 2?"
        )
    assert prediction.trajectory["code_output_0"] == '"3\\n"'
    defines = runs = ok("execute", "TOOL")
    steps = [defines, predict_tree("CodeAct.codeact"), runs, chain_of_thought("CodeAct.extractor")]
    assert dspy_traces.tree() == [ok("CodeAct", "AGENT", *steps, ok("shutdown", "TASK"))]


def test_program_of_thought_is_one_trace(dspy_traces):
    """A ProgramOfThought's call is one AGENT trace; code that fails has an error status and is written anew."""
    lm = answering(
        {"reasoning": "because", "generated_code": "nonsense"},
        {"reasoning": "because", "generated_code": "SUBMIT({'answer': 3})"},
        EXTRACTED,
    )
    with dspy.context(lm=lm):
        program = dspy.ProgramOfThought("question -> answer", interpreter_factory=InProcessInterpreter)
        assert program(question="1 + 2?").answer == "3"
    steps = [
        chain_of_thought("ProgramOfThought.code_generate"),
        failed("execute", "TOOL"),
        chain_of_thought("ProgramOfThought.code_regenerate"),
        ok("execute", "TOOL"),
        chain_of_thought("ProgramOfThought.generate_output"),
        ok("shutdown", "TASK"),
    ]
    assert dspy_traces.tree() == [ok("ProgramOfThought", "AGENT", *steps)]


def rlm_answers(code):
    return [{"reasoning": "explore", "code": code}, {"reasoning": "because", "code": "SUBMIT(answer='3')"}]


def test_rlm_is_one_trace(dspy_traces):
    """An RLM's call is one AGENT trace, and the LM that its code queries stands below the code."""
    first, last = rlm_answers("print(llm_query('how many?'))")
    with dspy.context(lm=answering(first, {"answer": "three"}, last)):
        program = dspy.RLM("question -> answer", interpreter_factory=InProcessInterpreter)
        assert program(question="1 + 2?").answer == "3"
    ((name, kind, status, steps),) = dspy_traces.tree()
    # DSPy 3.4 first installs its own helpers in the interpreter: an `execute` more, before `startup`.
    steps = steps[[step[0] for step in steps].index("startup") :]
    action = predict_tree("RLM.generate_action")
    assert (name, kind, status) == ("RLM", "AGENT", "OK")
    assert steps == [
        ok("startup", "TASK"),
        action,
        ok("execute", "TOOL", ok("dummy", "CHAT_MODEL")),
        action,
        ok("execute", "TOOL"),
        ok("shutdown", "TASK"),
    ]


@needs_local_interpreter
def test_what_code_in_a_subprocess_calls_is_below_the_code(dspy_traces):
    """Tools and LMs that an RLM's code calls from its own process, also several at once, are spans below the code."""
    first, last = rlm_answers("print(llm_query_batched(['a', 'b']), add(a=1, b=2))")
    lm = answering(first, {"answer": "x"}, {"answer": "y"}, last)
    with dspy.context(lm=lm):
        program = dspy.RLM("question -> answer", interpreter_factory=dspy.LocalInterpreter, tools=[add])
        assert program(question="1 + 2?").answer == "3"
    action, query = predict_tree("RLM.generate_action"), ok("dummy", "CHAT_MODEL")
    code = ok(
        "execute",
        "TOOL",
        ok("tool_call llm_query_batched", "TOOL", query, query),
        ok("tool_call add", "TOOL", ok("add", "TOOL")),
    )
    setup = ok("execute", "TOOL", ok("startup", "TASK"))
    steps = [setup, ok("startup", "TASK"), action, code, action, ok("execute", "TOOL"), ok("shutdown", "TASK")]
    assert dspy_traces.tree() == [ok("RLM", "AGENT", *steps)]
