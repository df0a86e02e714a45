"""Programs and LMs that many tests run."""

from __future__ import annotations

import asyncio

import dspy
from dspy.utils.dummies import DummyLM


def answering(*answers: dict[str, str], times: int = 50) -> DummyLM:
    """Return an LM that gives *answers* one after the other, over and over."""
    return DummyLM(list(answers or [{"reasoning": "because", "answer": "42"}]) * times)


def tool_call(name: str, **arguments: object) -> dict[str, object]:
    """Return the answer with which an agent calls a tool."""
    return {"next_thought": "think", "next_tool_name": name, "next_tool_args": arguments}


class Program(dspy.Module):
    """A module in a module."""

    def __init__(self) -> None:
        super().__init__()
        self.generate = dspy.ChainOfThought("question -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        return self.generate(question=question)

    async def aforward(self, question: str) -> dspy.Prediction:
        return await self.generate.acall(question=question)


class Answer(dspy.Module):
    """A predictor in a module."""

    def __init__(self) -> None:
        super().__init__()
        self.predict = dspy.Predict("question -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        return self.predict(question=question)

    async def aforward(self, question: str) -> dspy.Prediction:
        return await self.predict.acall(question=question)


class Waits(dspy.Module):
    """Says that it has started, and waits until it is cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.started = asyncio.Event()

    async def aforward(self) -> None:
        self.started.set()
        await asyncio.Event().wait()


class Echo(dspy.Module):
    """Answers with its question: a trace of one span."""

    def forward(self, question: str = "why?") -> str:
        return question


class Calling(dspy.Module):
    """Calls another module, or a function."""

    def __init__(self, inner) -> None:
        super().__init__()
        self.inner = inner

    def forward(self):
        return self.inner()


class Runs(dspy.Module):
    """Gives what it is given to the function that it was made with."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, given=None):
        return self.function(given)


PROGRAM_SPANS = [
    "Program",
    "Program.generate",
    "Program.generate.predict",
    "ChatAdapter.format",
    "dummy",
    "ChatAdapter.parse",
]
"""The names of the spans of one call of `Program`, as they begin."""


def predict_tree(name: str = "Predict", lm: str = "dummy"):
    """Return the tree of one call of a Predict that went well."""
    steps = [("ChatAdapter.format", "PARSER"), (lm, "CHAT_MODEL"), ("ChatAdapter.parse", "PARSER")]
    return (name, "CHAIN", "OK", [(step, span_type, "OK", []) for step, span_type in steps])


def program_tree(name: str = "Program"):
    """Return the tree of one call of `Program` that went well."""
    predict = predict_tree(f"{name}.generate.predict")
    return (name, "CHAIN", "OK", [(f"{name}.generate", "CHAIN", "OK", [predict])])
