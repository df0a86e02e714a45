"""A program on Dask: two workers answer four questions, and all of it is one trace.

Needs `pip install dspy-mlflow-callbacks[dask]`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import dspy
from distributed import Client, LocalCluster
from dspy.utils.dummies import DummyLM
from trees import open_store, print_tree, stored_traces

from dspy_mlflow_callbacks import MlflowCallback
from dspy_mlflow_callbacks.distributed.dask import traced

QUESTIONS = ["Is it one trace?", "Is it complete?", "Is it quick?", "Is it all?"]


class Survey(dspy.Module):
    """Lets workers answer questions."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self.program = dspy.ChainOfThought("question -> answer")
        self.client = client

    def forward(self, questions: list[str]) -> list[str]:
        """Return the answers."""
        program = self.program
        tasks = self.client.map(traced(lambda question: program(question=question).answer), questions)
        return list(self.client.gather(tasks))


def main() -> None:
    """Ask, and print the trace."""
    with tempfile.TemporaryDirectory() as folder:
        experiment_id = open_store(Path(folder))
        lm = DummyLM([{"reasoning": "It says so.", "answer": "yes"}] * len(QUESTIONS))
        dspy.configure(lm=lm, callbacks=[MlflowCallback()])  # workers get both
        with (
            LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
            Client(cluster) as client,
        ):
            print(Survey(client)(QUESTIONS))

        for trace in stored_traces(experiment_id):
            print_tree(trace)


if __name__ == "__main__":
    main()
