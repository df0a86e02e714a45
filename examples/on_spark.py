"""A program on Spark: two workers answer four questions, and all of it is one trace.

Needs `pip install dspy-mlflow-callbacks[spark]`, and Java.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import dspy
from dspy.utils.dummies import DummyLM
from pyspark.sql import SparkSession
from trees import open_store, print_tree, stored_traces

from dspy_mlflow_callbacks import MlflowCallback
from dspy_mlflow_callbacks.distributed.spark import traced

QUESTIONS = ["Is it one trace?", "Is it complete?", "Is it quick?", "Is it all?"]


class Survey(dspy.Module):
    """Lets workers answer questions."""

    def __init__(self, session: SparkSession) -> None:
        super().__init__()
        self.program = dspy.ChainOfThought("question -> answer")
        self.session = session

    def forward(self, questions: list[str]) -> list[str]:
        """Return the answers."""
        program = self.program
        answer = traced(lambda question: program(question=question).answer)  # Spark's session stays here
        return list(self.session.sparkContext.parallelize(questions, 2).map(answer).collect())


def main() -> None:
    """Ask, and print the trace."""
    with tempfile.TemporaryDirectory() as folder:
        experiment_id = open_store(Path(folder))
        lm = DummyLM([{"reasoning": "It says so.", "answer": "yes"}] * len(QUESTIONS))
        dspy.configure(lm=lm, callbacks=[MlflowCallback()])  # workers get both
        builder = SparkSession.builder.master("local[2]").config("spark.pyspark.python", sys.executable)
        session = builder.getOrCreate()
        print(Survey(session)(QUESTIONS))
        session.stop()

        for trace in stored_traces(experiment_id):
            print_tree(trace)


if __name__ == "__main__":
    main()
