"""What the tests of replay share: programs that are recorded, and a network that is closed."""

from __future__ import annotations

import asyncio
import base64
import socket
from unittest import mock

import dspy
import pytest
from dspy.utils.dummies import DummyLM

import dspy_mlflow_callbacks
from dspy_mlflow_callbacks.replaying.marks import without_frames
from dspy_mlflow_callbacks.testing.captured import tree

needs_engines = pytest.mark.skipif(not hasattr(dspy, "lm15"), reason="before 3.4 DSPy has no engines")


def record(traces, run, lm=None, **settings):
    """Run a program, and return its trace and what it returned."""
    before = {trace.info.trace_id for trace in traces.all()}
    with dspy.context(lm=counting() if lm is None else lm, **settings):
        outputs = run()
    (trace,) = [trace for trace in traces.all() if trace.info.trace_id not in before]
    return trace, outputs


def replay(*args, **kwargs):
    """Replay while nothing can connect anywhere."""

    def refuse(*address):
        raise AssertionError(f"a connection to {address}")

    with mock.patch.object(socket.socket, "connect", refuse):
        return dspy_mlflow_callbacks.replay(*args, **kwargs)


def counting(name="answer"):
    """Return an LM that numbers its answers in a field."""
    return DummyLM([{"reasoning": "because", name: f"answer {number}"} for number in range(50)])


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


def span_of(trace, name):
    """Return the first span of a name."""
    return next(span for span in trace.data.spans if span.name == name)


class Adding:
    """A tool that keeps what it was called with, also in copies of a program."""

    def __init__(self):
        self.called = []

    def __deepcopy__(self, memo):
        return self

    def add(self, a: int, b: int) -> int:
        """Add two numbers."""
        self.called.append((a, b))
        return a + b


def divide(a: int, b: int) -> float:
    """Divide two numbers, and say what went wrong before."""
    try:
        raise KeyError(a)
    except KeyError:
        return a / b


AGENT_STEPS = [
    {"next_thought": "add", "next_tool_name": "add", "next_tool_args": {"a": 1, "b": 2}},
    {"next_thought": "divide", "next_tool_name": "divide", "next_tool_args": {"a": 1, "b": 0}},
    {"next_thought": "nonsense", "next_tool_name": "add", "next_tool_args": {"c": 1}},
    {"next_thought": "done", "next_tool_name": "finish", "next_tool_args": {}},
    {"reasoning": "so", "answer": "3"},
]


def agent(adding=None):
    """Return an agent that adds with *adding*, and divides."""
    return dspy.ReAct("question -> answer", tools=[(adding or Adding()).add, divide])


class Twice(dspy.Module):
    """Asks the same twice, and gets different answers."""

    def __init__(self):
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    def forward(self, question):
        return [self.ask(question=question).answer, self.ask(question=question).answer]


class AtOnce(dspy.Module):
    """Asks the same twice at once; it has no `forward`."""

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

    def forward(self, *questions):
        runs = dspy.Parallel(num_threads=4, disable_progress_bar=True)
        return runs([(self.inner, {"question": question}) for question in questions])


class Steps(dspy.Module):
    """Hands the first answer on to a second step."""

    def __init__(self):
        super().__init__()
        self.first = dspy.Predict("question -> answer")
        self.second = dspy.Predict("question, hint -> answer")

    def forward(self, question):
        hint = self.first(question=question).answer
        return self.second(question=question, hint=hint)


def instructed(program, text):
    """Return a program whose second step has other instructions."""
    program.second.signature = program.second.signature.with_instructions(text)
    return program


class Look(dspy.Module):
    """Looks at a picture."""

    def __init__(self):
        super().__init__()
        self.look = dspy.Predict("picture: dspy.Image, sounds: list[dspy.Audio] -> answer")

    def forward(self, picture, sounds):
        return self.look(picture=picture, sounds=sounds)


def seen():
    """Return what `Look` is given."""
    data = base64.b64encode(bytes(range(256)) * 8).decode()
    return {
        "picture": dspy.Image(f"data:image/png;base64,{data}"),
        "sounds": [dspy.Audio(data=data, audio_format="wav")],
    }


def refine():
    """Return a module that asks again, with other rollouts, until it has had enough."""
    return dspy.Refine(
        module=dspy.ChainOfThought("question -> answer"), N=3, reward_fn=lambda args, prediction: 0.0, threshold=1.0
    )
