"""An evaluation whose examples, scores and reasons can be looked up in MLflow."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import dspy
import mlflow
from dspy.utils.dummies import DummyLM
from trees import open_store

from dspy_mlflow_callbacks import MlflowCallback, flush, program_fingerprint

ANSWERS = {
    "How long is the term of a Senator?": "Six years.",
    "Who chooses the Speaker?": "The House of Representatives does.",
    "How old must a President be?": "Forty years.",
}
EXPECTED = ("six years", "House of Representatives", "thirty five years")


def holds(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> dspy.Prediction:
    """Return whether the answer has what was expected in it, and why not."""
    is_right = example.holds.lower() in prediction.answer.lower()
    return dspy.Prediction(score=is_right, feedback="" if is_right else f"{example.holds!r} is not in the answer")


def main() -> None:
    """Evaluate a program, and print the examples that it failed."""
    devset = [
        dspy.Example(question=question, holds=part).with_inputs("question")
        for question, part in zip(ANSWERS, EXPECTED, strict=True)
    ]
    lm = DummyLM({question: {"answer": answer} for question, answer in ANSWERS.items()})
    program = dspy.Predict("question -> answer")
    with tempfile.TemporaryDirectory() as folder:
        open_store(Path(folder))
        dspy.configure(lm=lm, callbacks=[MlflowCallback()])
        logging.getLogger("dspy.evaluate").setLevel(logging.WARNING)
        result = dspy.Evaluate(devset=devset, metric=holds, num_threads=2)(program)
        flush()

        of_program = f"tag.`dspy.program.fingerprint` = '{program_fingerprint(program)}'"
        examples = mlflow.search_traces(filter_string=of_program, return_type="list")
        failed = mlflow.search_traces(filter_string=f"{of_program} AND feedback.holds = 'false'", return_type="list")
        print(f"{result.score:g}% of {len(examples)} examples")
        for trace in failed:
            (feedback,) = trace.info.assessments
            print(f"{trace.data.spans[0].inputs['question']} {feedback.rationale}.")


if __name__ == "__main__":
    main()
