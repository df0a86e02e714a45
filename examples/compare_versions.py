"""Two versions of a program, compared by their traces before the second one is shipped."""

from __future__ import annotations

import tempfile
from pathlib import Path

import dspy
from offline import offline_lm
from trees import open_store

from dspy_mlflow_callbacks import CheckFailedError, MlflowCallback, compare_versions, flush, trace_context

QUESTIONS = ["How long is the term of a Senator?", "Who chooses the Speaker?"]


class Answers(dspy.Module):
    """Answers at once, or after a look at its own answer."""

    def __init__(self, *, looks_twice: bool) -> None:
        super().__init__()
        self.answer = dspy.ChainOfThought("question -> answer")
        self.revise = dspy.Predict("question, answer -> answered") if looks_twice else None

    def forward(self, question: str) -> dspy.Prediction:
        """Answer a question."""
        answer = self.answer(question=question)
        if self.revise is not None:
            self.revise(question=question, answer=answer.answer)
        return answer


def main() -> None:
    """Run both versions on the same questions, print what differs, and hold the second to limits."""
    with tempfile.TemporaryDirectory() as folder:
        open_store(Path(folder))
        dspy.configure(lm=offline_lm(), callbacks=[MlflowCallback()])
        for version, program in (("v1", Answers(looks_twice=False)), ("v2", Answers(looks_twice=True))):
            with trace_context(tags={"version": version}):
                for question in QUESTIONS:
                    program(question=question)
        flush()

        comparison = compare_versions("v1", "v2", by="tag:version", resamples=0)
        print(comparison.to_markdown())
        try:
            comparison.check(max_latency_increase=1000)
        except CheckFailedError as error:
            print(f"Not shipped: {error}")


if __name__ == "__main__":
    main()
