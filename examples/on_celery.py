"""A program on Celery: a worker's two processes answer four questions, and all of it is one trace.

Needs `pip install dspy-mlflow-callbacks[celery]`. Messages go through files here; use a broker of your own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import dspy
import mlflow
from celery import Celery
from dspy.utils.dummies import DummyLM
from trees import open_store, print_tree, stored_traces

from dspy_mlflow_callbacks import MlflowCallback
from dspy_mlflow_callbacks.distributed.celery import trace_tasks

FOLDER = os.environ.setdefault("ON_CELERY_FOLDER", tempfile.mkdtemp())
QUESTIONS = ["Is it one trace?", "Is it complete?", "Is it quick?", "Is it all?"]

app = Celery("on_celery", broker="filesystem://", backend=f"file://{FOLDER}")
app.conf.broker_transport_options = dict.fromkeys(("data_folder_in", "data_folder_out", "control_folder"), FOLDER)
trace_tasks(app)  # in whoever sends tasks, and in workers

# Workers have an LM and callbacks of their own.
dspy.configure(lm=DummyLM([{"reasoning": "It says so.", "answer": "yes"}] * 10), callbacks=[MlflowCallback()])
program = dspy.ChainOfThought("question -> answer")


@app.task
def answer(question: str) -> str:
    """Return the answer."""
    return str(program(question=question).answer)


class Survey(dspy.Module):
    """Lets workers answer questions."""

    def forward(self, questions: list[str]) -> list[str]:
        """Return the answers."""
        return [result.get(timeout=60) for result in [answer.delay(question) for question in questions]]


def main() -> None:
    """Ask, and print the trace."""
    experiment_id = open_store(Path(FOLDER))
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "on_celery", "worker", "--concurrency", "2", "--loglevel", "error"],
        cwd=Path(__file__).parent,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri()},
    )
    print(Survey()(QUESTIONS))
    worker.terminate()
    worker.wait()
    for trace in stored_traces(experiment_id):
        print_tree(trace)


if __name__ == "__main__":
    main()
