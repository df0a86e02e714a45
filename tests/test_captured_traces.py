"""What a test may ask of its traces, and what stays outside while they are captured."""

from __future__ import annotations

import contextvars
import functools
import os
import re

import dspy
import mlflow
import pytest
from mlflow.entities.trace_location import MlflowExperimentLocation
from openai_server import chat, usage
from programs import PROGRAM_SPANS, Calling, Program, answering, program_tree
from threads import at_once

from dspy_mlflow_callbacks import CallKind, MlflowCallback, TagInjector, testing
from dspy_mlflow_callbacks.testing import CapturedTraces, capture_traces
from dspy_mlflow_callbacks.testing.captured import tree


@pytest.fixture(autouse=True)
def _lm():
    dspy.configure(lm=answering())


def test_one_is_the_only_trace(dspy_traces):
    """`one` returns the trace, and raises an error that shows the trees when there is not exactly one."""
    with pytest.raises(AssertionError, match=r"expected one trace, got 0: \[\]"):
        dspy_traces.one()
    Program()(question="why?")
    assert dspy_traces.one().info.tags["mlflow.traceName"] == "Program"
    Program()(question="again?")
    with pytest.raises(AssertionError, match=r"expected one trace, got 2: \[\[\('Program', 'CHAIN', 'OK'"):
        dspy_traces.one()


def test_all_is_in_the_order_in_which_traces_began(dspy_traces):
    """`all` returns the traces oldest first."""
    for number in range(5):
        Program()(question=f"{number}")
    assert [trace.data.request for trace in dspy_traces.all()] == [f'{{"question":"{n}"}}' for n in range(5)]


def test_many_threads_store_at_once(dspy_traces):
    """A trace of each of 32 threads that end their programs at the same time is stored."""
    work = functools.partial(Program(), question="why?")
    at_once(*[functools.partial(contextvars.copy_context().run, work) for _ in range(32)])
    assert [tree(trace) for trace in dspy_traces.all()] == [[program_tree()]] * 32


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({}, PROGRAM_SPANS),
        ({"kind": "lm"}, ["dummy"]),
        ({"kind": CallKind.MODULE}, ["Program", "Program.generate", "Program.generate.predict"]),
        ({"name": "ChatAdapter.parse"}, ["ChatAdapter.parse"]),
        ({"kind": "module", "name": "ChatAdapter.parse"}, []),
    ],
)
def test_spans_are_asked_for_by_kind_and_name(dspy_traces, query, names):
    """`spans` returns all spans, or those of a kind or name."""
    Program()(question="why?")
    assert [span.name for span in dspy_traces.spans(**query)] == names


def test_an_unknown_kind_is_refused(dspy_traces):
    """A kind that does not exist raises ValueError that names it."""
    with pytest.raises(ValueError, match="'llm' is not a valid CallKind"):
        dspy_traces.spans(kind="llm")


def test_a_configured_callback_stays_outside():
    """Inside, a bare callback stands in for the user's; afterwards settings, store and experiment are as before."""
    others = [MlflowCallback(middleware=[TagInjector({"mine": "yes"})])]
    dspy.configure(callbacks=others)
    uri, environment = mlflow.get_tracking_uri(), {k: v for k, v in os.environ.items() if k.startswith("MLFLOW")}
    with capture_traces() as traces:
        Program()(question="why?")
        assert "mine" not in traces.one().info.tags
        dspy.configure(callbacks=[])
    assert dspy.settings.callbacks == others
    assert mlflow.get_tracking_uri() == uri
    assert {k: v for k, v in os.environ.items() if k.startswith("MLFLOW")} == environment


def test_a_destination_and_a_disabled_tracing_are_put_back(tmp_path):
    """A user's destination holds again afterwards, and tracing that was disabled is disabled again."""
    mine = tmp_path / "mine"
    mine.mkdir()
    with capture_traces(mine) as outer:
        chosen = mlflow.create_experiment("chosen", artifact_location=mine.as_uri())
        mlflow.tracing.set_destination(MlflowExperimentLocation(chosen))
        with capture_traces(tmp_path) as inner:
            Program()(question="inside")
            assert inner.tree() == [program_tree()]
        Program()(question="outside")
        assert CapturedTraces(chosen).one().data.request == '{"question":"outside"}'
        assert outer.all() == []
        mlflow.tracing.disable()
        with capture_traces(tmp_path) as inner:
            Program()(question="inside")
            assert inner.tree() == [program_tree()]
        Program()(question="unseen")
        assert len(CapturedTraces(chosen).all()) == 1


def test_spans_are_asked_for_by_the_module_that_they_are_of(dspy_traces):
    """A path returns the spans of that module and of what it calls, and of no other."""
    Program()(question="why?")
    assert [span.name for span in dspy_traces.spans(path="Program.generate.predict")] == PROGRAM_SPANS[2:]
    assert [span.name for span in dspy_traces.lms(path="Program.generate")] == ["dummy"]
    assert dspy_traces.lms(path="Program.other") == []


def test_tools_are_asked_for_by_name(dspy_traces):
    """`tools` returns the spans of tool calls, all or those of a name."""

    def near(city: str) -> str:
        return city

    def far(city: str) -> str:
        return city

    for tool in (near, far):
        dspy.Tool(tool)(city="Ulm")
    names = [span.name for span in dspy_traces.tools()]
    assert (names, [span.name for span in dspy_traces.tools(name="far")]) == (["near", "far"], ["far"])


def test_prompts_are_what_the_lms_were_asked(dspy_traces):
    """`prompts` returns the messages of each LM call in the order of the calls."""
    for question in ("why?", "how?"):
        Program()(question=question)
    prompts = dspy_traces.prompts(path="Program.generate")
    assert [[message["role"] for message in prompt] for prompt in prompts] == [["system", "user"]] * 2
    assert ["why?" in prompts[0][1]["content"], "how?" in prompts[1][1]["content"]] == [True, True]


def test_tokens_cost_and_retries_are_added_up(dspy_traces, openai_server):
    """Tokens, dollars and retries are those of all LM calls; without one there are none."""
    assert (dspy_traces.tokens(), dspy_traces.cost_usd(), dspy_traces.retries()) == ({}, 0, 0)
    openai_server.script(chat(counts=usage(10, 2)))
    lm = openai_server.lm("litellm")
    for question in ("why?", "how?"):
        lm(question)
    tokens = {name: dspy_traces.tokens()[name] for name in ("input_tokens", "output_tokens", "total_tokens")}
    assert tokens == {"input_tokens": 20, "output_tokens": 4, "total_tokens": 24}
    assert dspy_traces.cost_usd() == pytest.approx(2 * (10 * 0.15e-6 + 2 * 0.6e-6))


def test_as_a_text_traces_are_trees(dspy_traces):
    """The text has a line for each span with name, type and time, tokens and cost; errors by their first line."""

    def broken():
        raise ValueError("it broke\n" + "x" * 300)

    assert str(dspy_traces) == "no trace"
    Program()(question="why?")
    with pytest.raises(ValueError, match="it broke"):
        Calling(broken)()
    told = [re.sub(r"tr-\w+|\d+\.\d ms", "·", line) for line in str(dspy_traces).splitlines()]
    assert told == [
        "· OK",
        "Program  CHAIN  ·",
        "└─ Program.generate  CHAIN  ·",
        "   └─ Program.generate.predict  CHAIN  ·",
        "      ├─ ChatAdapter.format  PARSER  ·",
        "      ├─ dummy  CHAT_MODEL  ·",
        "      └─ ChatAdapter.parse  PARSER  ·",
        "",
        "· ERROR",
        "Calling  CHAIN  ·  ERROR ValueError: it broke",
    ]


def test_as_a_text_lm_calls_have_what_they_took(memory_traces, openai_server):
    """The line of an LM's call has its tokens and dollars; one that was answered from the cache says so."""
    openai_server.script(chat(counts=usage(10, 2)))
    lm = openai_server.lm("litellm", cache=True)
    for _ in range(2):
        lm("why?")
    asked, cached = (text.splitlines()[1] for text in str(memory_traces).split("\n\n"))
    assert asked.endswith("ms  12 tokens  $0.000003")
    assert cached.endswith("ms  $0.000000  from the cache")


def test_nothing_in_a_trace_moves_a_cursor(memory_traces):
    """Control characters of names and messages are shown as escapes, and a long message is cut."""

    def broken():
        raise ValueError("\x1b[31mred" + "x" * 300)

    with pytest.raises(ValueError), mlflow.start_span("\x1b[2Jgone"):
        Calling(broken)()
    text = str(memory_traces)
    assert "\x1b" not in text
    assert "\\x1b[2Jgone  UNKNOWN" in text
    assert f"ERROR ValueError: \\x1b[31mred{'x' * 177}…\n" in f"{text}\n"


def test_a_name_that_is_not_there():
    """What tests cannot import from `testing` raises as it does from any module."""
    with pytest.raises(AttributeError, match=r"module 'dspy_mlflow_callbacks.testing' has no attribute 'Captured'"):
        testing.Captured  # noqa: B018
