"""The first trace: one line configures it, and each call of a program is one trace."""

from __future__ import annotations

import tempfile
from pathlib import Path

import dspy
from dspy.utils.dummies import DummyLM
from trees import open_store, print_tree, stored_traces

from dspy_mlflow_callbacks import MlflowCallback


def main() -> None:
    """Trace one call and print its tree."""
    with tempfile.TemporaryDirectory() as folder:
        experiment_id = open_store(Path(folder))
        lm = DummyLM([{"reasoning": "Six times seven.", "answer": "42"}])

        dspy.configure(lm=lm, callbacks=[MlflowCallback()])
        dspy.ChainOfThought("question -> answer")(question="How much is six times seven?")

        for trace in stored_traces(experiment_id):
            print_tree(trace)


if __name__ == "__main__":
    main()
