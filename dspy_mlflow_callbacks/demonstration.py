"""A program that shows what a trace says: an agent with a tool, answered by an LM that needs no network."""

from __future__ import annotations

from pathlib import Path

import dspy
import mlflow
from dspy.utils.dummies import DummyLM

from dspy_mlflow_callbacks.callbacks import MlflowCallback
from dspy_mlflow_callbacks.flushing import flush

EXPERIMENT = "dspy-mlflow demo"
QUESTION = "How many years lie between the first moon landing and the first dog in orbit?"
_ANSWERS = (
    {
        "next_thought": "Laika flew in 1957, Apollo 11 landed in 1969.",
        "next_tool_name": "years_between",
        "next_tool_args": '{"earlier": 1957, "later": 1969}',
    },
    {"next_thought": "That is the answer.", "next_tool_name": "finish", "next_tool_args": "{}"},
    {"reasoning": "1969 - 1957 = 12", "answer": "12"},
    {"reasoning": "12 is right.", "verdict": "right"},
)


def years_between(earlier: int, later: int) -> int:
    """Count the years from one year to another."""
    return later - earlier


class Demo(dspy.Module):
    """Lets an agent answer, and judges its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.research = dspy.ReAct("question -> answer", tools=[years_between], max_iters=4)
        self.judge = dspy.ChainOfThought("question, answer -> verdict")

    def forward(self, question: str) -> dspy.Prediction:
        """Return the answer with its verdict."""
        found = self.research(question=question)
        judged = self.judge(question=question, answer=found.answer)
        return dspy.Prediction(answer=found.answer, verdict=judged.verdict)


def run_demo(folder: Path | None) -> str:
    """Run the program, traced, and return the trace's id.

    Args:
        folder: Where a store is made; None for MLflow's own.
    """
    if folder is not None:
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    if mlflow.get_experiment_by_name(EXPERIMENT) is None:
        artifacts = None if folder is None else (folder / "artifacts").absolute().as_uri()
        mlflow.create_experiment(EXPERIMENT, artifact_location=artifacts)
    callback = MlflowCallback(experiment=EXPERIMENT)
    with dspy.context(lm=DummyLM(list(_ANSWERS)), adapter=dspy.ChatAdapter(), callbacks=[callback]):
        Demo()(question=QUESTION)
    flush()
    return str(mlflow.get_last_active_trace_id())
