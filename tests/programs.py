"""Programs and LMs that many tests run."""

from __future__ import annotations

import dspy
from dspy.utils.dummies import DummyLM


def answering(*answers: dict[str, str], times: int = 50) -> DummyLM:
    """Return an LM that gives *answers* one after the other, over and over."""
    return DummyLM(list(answers or [{"reasoning": "because", "answer": "42"}]) * times)


class Program(dspy.Module):
    """A module in a module."""

    def __init__(self) -> None:
        super().__init__()
        self.generate = dspy.ChainOfThought("question -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        return self.generate(question=question)

    async def aforward(self, question: str) -> dspy.Prediction:
        return await self.generate.acall(question=question)


def predict_tree(name: str = "Predict", lm: str = "dummy"):
    """Return the tree of one call of a Predict that went well."""
    steps = [("ChatAdapter.format", "PARSER"), (lm, "CHAT_MODEL"), ("ChatAdapter.parse", "PARSER")]
    return (name, "CHAIN", "OK", [(step, span_type, "OK", []) for step, span_type in steps])


def program_tree(name: str = "Program"):
    """Return the tree of one call of `Program` that went well."""
    predict = predict_tree(f"{name}.generate.predict")
    return (name, "CHAIN", "OK", [(f"{name}.generate", "CHAIN", "OK", [predict])])
