"""A callback on one program: that program is traced, with all that runs below it, and others are not."""

from __future__ import annotations

import tempfile
from pathlib import Path

import dspy
from dspy.utils.dummies import DummyLM
from trees import open_store, print_tree, stored_traces

from dspy_mlflow_callbacks import MlflowCallback, attach


def main() -> None:
    """Run two programs, one of them with a callback, and print what was traced."""
    with tempfile.TemporaryDirectory() as folder:
        experiment_id = open_store(Path(folder))
        dspy.configure(lm=DummyLM([{"reasoning": "It says so.", "answer": "yes"}] * 2))

        traced = attach(dspy.ChainOfThought("question -> answer"), MlflowCallback(tags={"team": "search"}))
        untraced = dspy.ChainOfThought("question -> answer")
        traced(question="Is this call traced?")
        untraced(question="And this one?")

        for trace in stored_traces(experiment_id):
            print(f"{trace.info.request_preview}  team: {trace.info.tags['team']}")
            print_tree(trace)


if __name__ == "__main__":
    main()
