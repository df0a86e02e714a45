"""Tests of a program, with what it did as a value to assert on: `pytest examples/test_answers.py`."""

from __future__ import annotations

from typing import Any

import dspy
import pytest
from dspy.utils.dummies import DummyLM


class Answers(dspy.Module):
    """Answers, and has the answer checked."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> answer")
        self.check = dspy.Predict("question, answer -> is_right: bool")

    def forward(self, question: str) -> dspy.Prediction:
        """Return the answer."""
        answer = self.answer(question=question)
        self.check(question=question, answer=answer.answer)
        return answer


@pytest.fixture(autouse=True)
def _model() -> None:
    dspy.configure(lm=DummyLM([{"answer": "Rayleigh scattering"}, {"is_right": True}]))


def test_the_answer_is_checked_once(dspy_traces: Any) -> None:
    """The checker is asked once, and about the answer that was given."""
    Answers()(question="Why is the sky blue?")
    assert [span.name for span in dspy_traces.spans(kind="module")] == ["Answers", "Answers.answer", "Answers.check"]
    (prompt,) = dspy_traces.prompts(path="Answers.check")
    assert "Rayleigh scattering" in prompt[-1]["content"]


@pytest.mark.dspy_trace(max_lm_calls=2, max_tokens=5_000, max_retries=0)
def test_an_answer_costs_two_calls() -> None:
    """An answer takes no more than two calls of the model."""
    assert Answers()(question="Why is the sky blue?").answer
