"""A program on Ray: two workers answer four questions, and all of it is one trace.

Needs `pip install dspy-mlflow-callbacks[ray]`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import dspy
import ray
from dspy.utils.dummies import DummyLM
from trees import open_store, print_tree, stored_traces

from dspy_mlflow_callbacks import MlflowCallback
from dspy_mlflow_callbacks.distributed.ray import TracedTask

QUESTIONS = ["Is it one trace?", "Is it complete?", "Is it quick?", "Is it all?"]


class Survey(dspy.Module):
    """Lets workers answer questions."""

    def __init__(self) -> None:
        super().__init__()
        self.program = dspy.ChainOfThought("question -> answer")

    def forward(self, questions: list[str]) -> list[str]:
        """Return the answers."""
        answer = TracedTask(self.program)
        return [each.answer for each in ray.get([answer.remote(question=question) for question in questions])]


def main() -> None:
    """Ask, and print the trace."""
    with tempfile.TemporaryDirectory() as folder:
        experiment_id = open_store(Path(folder))
        lm = DummyLM([{"reasoning": "It says so.", "answer": "yes"}] * len(QUESTIONS))
        dspy.configure(lm=lm, callbacks=[MlflowCallback()])  # workers get both
        ray.init(num_cpus=2, include_dashboard=False)
        print(Survey()(QUESTIONS))
        ray.shutdown()

        for trace in stored_traces(experiment_id):
            print_tree(trace)


if __name__ == "__main__":
    main()
