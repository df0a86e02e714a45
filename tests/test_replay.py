"""Replay: every kind of program runs again on the answers of its trace, offline, with equal outputs and tree."""

from __future__ import annotations

import asyncio
import socket

import dspy
import mlflow
import pytest
from dspy.streaming import StreamListener, StreamResponse
from dspy.utils.dummies import DummyLM
from offline_lm import OfflineLM, Raw
from programs import Program, answering

from dspy_mlflow_callbacks import replay
from dspy_mlflow_callbacks.replaying.marks import without_frames
from dspy_mlflow_callbacks.testing.captured import tree


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """Let nothing connect anywhere."""

    def refuse(*args):
        raise AssertionError(f"a connection to {args[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def recorded(dspy_traces):
    """Return what runs a program and returns its trace and what it returned."""

    def record(run, lm, **settings):
        before = {trace.info.trace_id for trace in dspy_traces.all()}
        with dspy.context(lm=lm, **settings):
            outputs = run()
        (trace,) = [trace for trace in dspy_traces.all() if trace.info.trace_id not in before]
        return trace, outputs

    return record


def counting(name):
    """Return an LM that numbers its answers in a field."""
    return DummyLM([{"reasoning": "because", name: f"answer {number}"} for number in range(50)])


def add(a: int, b: int) -> int:
    """Add two numbers."""
    CALLED.append((a, b))
    return a + b


def divide(a: int, b: int) -> float:
    """Divide two numbers."""
    return a / b


CALLED = []

AGENT_STEPS = [
    {"next_thought": "add", "next_tool_name": "add", "next_tool_args": {"a": 1, "b": 2}},
    {"next_thought": "divide", "next_tool_name": "divide", "next_tool_args": {"a": 1, "b": 0}},
    {"next_thought": "nonsense", "next_tool_name": "add", "next_tool_args": {"c": 1}},
    {"next_thought": "done", "next_tool_name": "finish", "next_tool_args": {}},
    {"reasoning": "so", "answer": "3"},
]


class Twice(dspy.Module):
    """Asks the same twice, and gets different answers."""

    def __init__(self):
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    def forward(self, question):
        return [self.ask(question=question).answer, self.ask(question=question).answer]

    async def aforward(self, question):
        first, second = await asyncio.gather(*(self.ask.acall(question=question) for _ in range(2)))
        return [first.answer, second.answer]


class OnlyAsync(dspy.Module):
    """Has no `forward`."""

    def __init__(self):
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    async def aforward(self, question):
        first, second = await asyncio.gather(*(self.ask.acall(question=question) for _ in range(2)))
        return [first.answer, second.answer]


class Many(dspy.Module):
    """Asks in worker threads."""

    def __init__(self):
        super().__init__()
        self.inner = Twice()

    def forward(self, questions):
        runs = dspy.Parallel(num_threads=4, disable_progress_bar=True)
        return runs([(self.inner, {"question": question}) for question in questions])


class Many2(Many):
    """Answers with what was asked."""


class Look(dspy.Module):
    """Looks at a picture."""

    def __init__(self):
        super().__init__()
        self.look = dspy.Predict("picture: dspy.Image -> answer")

    def forward(self, picture):
        return self.look(picture=picture)


def picture():
    import base64

    return dspy.Image(f"data:image/png;base64,{base64.b64encode(bytes(range(256)) * 8).decode()}")


def refine():
    return dspy.Refine(
        module=dspy.ChainOfThought("question -> answer"), N=3, reward_fn=lambda args, prediction: 0.0, threshold=1.0
    )


def fields(value):
    """Return a prediction's fields; of exceptions in them only what they say, not where they were raised."""
    if isinstance(value, dict):
        return {name: fields(item) for name, item in value.items()}
    if isinstance(value, str):
        return without_frames(value)
    return fields(value.toDict()) if isinstance(value, dspy.Prediction) else value


def shape(trace):
    """Return a trace's tree, siblings in an order of their own: in threads they have none."""

    def ordered(nodes):
        return sorted(((name, kind, status, ordered(below)) for name, kind, status, below in nodes), key=repr)

    return ordered(tree(trace))


PROGRAMS = {
    "a predictor": (lambda: dspy.Predict("question -> answer"), {"question": "why?"}, lambda: counting("answer")),
    "modules in modules": (Program, {"question": "why?"}, lambda: counting("answer")),
    "equal prompts": (Twice, {"question": "why?"}, lambda: counting("answer")),
    "an agent": (
        lambda: dspy.ReAct("question -> answer", tools=[add, divide]),
        {"question": "1 + 2?"},
        lambda: DummyLM(AGENT_STEPS),
    ),
    "threads": (
        Many,
        {"questions": ["a", "b", "c", "d", "e"]},
        lambda: OfflineLM(answer=lambda prompt: f"to {prompt[:40]!r}"),
    ),
    "a fallback to another adapter": (
        lambda: dspy.ChainOfThought("question -> answer"),
        {"question": "why?"},
        lambda: Raw("no fields", '{"reasoning": "because", "answer": "42"}'),
    ),
    "several completions": (
        lambda: dspy.Predict("question -> answer", n=3, temperature=1.0),
        {"question": "why?"},
        lambda: counting("answer"),
    ),
    "retries with another rollout": (refine, {"question": "why?"}, lambda: counting("answer")),
    "images": (Look, {"picture": picture()}, lambda: OfflineLM()),
    "reasoning beside the text": (
        lambda: dspy.Predict("question -> answer"),
        {"question": "why?"},
        lambda: DummyLM([{"answer": "42"}], reasoning=True),
    ),
}


@pytest.mark.parametrize(("program", "inputs", "lm"), PROGRAMS.values(), ids=PROGRAMS)
def test_a_program_replays_to_the_same_outputs_and_tree(recorded, program, inputs, lm):
    """A program's replay has its outputs and its tree, with no LM configured and no network."""
    made = program()
    trace, outputs = recorded(lambda: made(**inputs), lm())
    again = replay(trace, program())
    assert again.divergences == ()
    assert fields(again.outputs) == fields(outputs)
    assert shape(again.trace) == shape(trace)
    assert again.is_equal
