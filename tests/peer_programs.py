"""What the tests of other tracers run beside them: each function is one way in which DSPy calls a program."""

from __future__ import annotations

import asyncio

import dspy
import pytest
from evaluations import exact
from offline_lm import OfflineLM
from programs import Program

QUESTIONS = [dspy.Example(question=f"question {index}", answer="42").with_inputs("question") for index in range(4)]


class Failing(dspy.Module):
    """Raises after a call that goes well."""

    def __init__(self):
        super().__init__()
        self.predict = dspy.Predict("question -> answer")

    def forward(self, question):
        self.predict(question=question)
        raise ValueError(question)


def call():
    Program()(question="why?")


def call_in_threads():
    Program().batch(QUESTIONS, num_threads=4, disable_progress_bar=True)


def call_in_tasks():
    async def gather():
        await asyncio.gather(*[Program().acall(question=example.question) for example in QUESTIONS])

    asyncio.run(gather())


def fail():
    with pytest.raises(ValueError, match="why"):
        Failing()(question="why?")


def fall_back():
    """Ask for JSON: the adapter's `format` calls its base class's."""
    with dspy.context(adapter=dspy.JSONAdapter()):
        dspy.Predict("question -> answer")(question="why?")


def use_tools():
    """Run an agent that calls one tool and the one that DSPy ends it with."""
    steps = iter([("search", {"query": "why?"}), ("finish", {})])

    def next_step(prompt):
        return dict(zip(("next_tool_name", "next_tool_args"), next(steps), strict=True))

    step = {}
    lm = OfflineLM(
        next_tool_name=lambda prompt: step.update(next_step(prompt)) or step["next_tool_name"],
        next_tool_args=lambda prompt: step["next_tool_args"],
    )

    def search(query: str) -> str:
        return "because"

    with dspy.context(lm=lm):
        dspy.ReAct("question -> answer", tools=[search])(question="why?")


def evaluate(num_threads=4):
    dspy.Evaluate(devset=QUESTIONS, metric=exact, num_threads=num_threads, display_progress=False)(Program())


PROGRAMS = [call, call_in_threads, call_in_tasks, fail, fall_back, use_tools, evaluate]
