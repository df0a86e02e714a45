"""An optimizer's run: what was tried, with which instructions and demos, what it scored, and where it failed."""

from __future__ import annotations

import tempfile
from pathlib import Path

import dspy
import mlflow
from offline import offline_lm
from trees import open_store

from dspy_mlflow_callbacks import MlflowCallback, flush, optimizer_runs

PASSAGES = [
    "The Senate of the United States shall be composed of two Senators from each State, for six Years.",
    "The House of Representatives shall chuse their Speaker and other Officers.",
    "The Senate shall have the sole Power to try all Impeachments.",
]
QUESTIONS = {
    "For how many years are Senators chosen?": "six years",
    "Who shall choose the Speaker?": "the house of representatives",
    "Who has the power to try all impeachments?": "the chief justice",
}


def answered(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    """Say whether the right words are in the answer."""
    return example.answer in prediction.answer.lower()


def main() -> None:
    """Optimize a program that answers from passages, and print its trials."""
    trainset = [
        dspy.Example(passages=PASSAGES, question=question, answer=answer).with_inputs("passages", "question")
        for question, answer in QUESTIONS.items()
    ]
    with tempfile.TemporaryDirectory() as folder:
        open_store(Path(folder))
        dspy.configure(lm=offline_lm(), callbacks=[MlflowCallback(compile="summary")])
        optimizer = dspy.BootstrapFewShotWithRandomSearch(
            metric=answered, max_bootstrapped_demos=1, max_labeled_demos=1, num_candidate_programs=1, num_threads=2
        )
        optimizer.compile(dspy.Predict("passages: list[str], question -> answer"), trainset=trainset)
        flush()

        traces = mlflow.search_traces(filter_string=f"trace.name = '{type(optimizer).__name__}'", return_type="list")
        for run in optimizer_runs(traces):
            print(f"{run.optimizer}: {len(run.trials)} trials, {run.spent['trials']['lm_calls']} LM calls")
            for trial in run.trials:
                changed = {path: sorted(demos) for path, demos in trial.demos.items()}
                examples = len(trial.example_traces)
                print(f"  trial {trial.index}: {trial.score}% on {examples} examples ({trial.batch}), demos {changed}")
            failed = (
                f"tags.`dspy.compile.id` = '{run.trace_id}' AND tags.`dspy.compile.trial` = '{run.best.index}' "
                "AND feedback.answered = 'false'"
            )
            for trace in mlflow.search_traces(filter_string=failed, return_type="list"):
                print(f"  the best one fails: {trace.data.spans[0].inputs['question']}")


if __name__ == "__main__":
    main()
