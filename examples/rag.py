"""Retrieval and an answer: the trace shows which passages were found, and what the model made of them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import dspy
from demo import TEXT, BM25Search, read_passages
from offline import offline_lm
from trees import open_store, print_tree, stored_traces

from dspy_mlflow_callbacks import MlflowCallback


class Rag(dspy.Module):
    """Answers from the passages that it finds."""

    def __init__(self, passages: list[str]) -> None:
        super().__init__()
        self.search = BM25Search(passages, k=2)
        self.answer = dspy.ChainOfThought("passages: list[str], question -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        """Return an answer, in the words of a passage."""
        return self.answer(passages=self.search(question).passages, question=question)


def main() -> None:
    """Ask one question, and print its trace."""
    with tempfile.TemporaryDirectory() as folder:
        experiment_id = open_store(Path(folder))
        dspy.configure(lm=offline_lm(), callbacks=[MlflowCallback()])
        Rag(read_passages(TEXT.read_text(encoding="utf-8")))(question="Who shall chuse the Speaker?")

        (trace,) = stored_traces(experiment_id)
        print_tree(trace)
        (retrieval,) = trace.search_spans(span_type="RETRIEVER")
        for passage in retrieval.outputs["passages"]:
            print("found:", passage[:80])
        print("answer:", trace.data.spans[0].outputs["answer"])


if __name__ == "__main__":
    main()
