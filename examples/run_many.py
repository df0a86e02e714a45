"""A program over many inputs: in parallel, each traced, errors in their place, and again without what is stored."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import dspy
from dspy.utils.dummies import DummyLM
from trees import open_store, print_tree, stored_traces

from dspy_mlflow_callbacks import MlflowCallback, run

KNOWN = {f"How much is {number} + {number}?": {"answer": str(2 * number)} for number in range(5)}


class Sums(dspy.Module):
    """Answers, but for one question."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> answer")
        self.is_mended = False

    def forward(self, question: str) -> dspy.Prediction:
        """Return the answer."""
        if "3" in question and not self.is_mended:
            message = "I cannot count to three"
            raise ValueError(message)
        return self.answer(question=question)


def questions() -> Iterator[dict[str, str]]:
    """Yield inputs; there may be millions of them."""
    for question in KNOWN:
        yield {"question": question}


def main() -> None:
    """Ask all questions, mend the program, and ask again those that failed."""
    program = Sums()
    with tempfile.TemporaryDirectory() as folder:
        experiment_id = open_store(Path(folder))
        dspy.configure(lm=DummyLM(KNOWN), callbacks=[MlflowCallback()])
        for result in run(program, questions(), max_workers=4, on_error="keep", name="nightly"):
            print(result.inputs["question"], result.error or result.prediction.answer)

        program.is_mended = True
        results = run(program, questions(), name="nightly", resume=True)
        print([result.prediction.answer for result in results], f"of them {results.counts.stored} stored before")

        (mended,) = stored_traces(experiment_id, "tag.`dspy.run.name` = 'nightly'")[-1:]
        print_tree(mended)


if __name__ == "__main__":
    main()
