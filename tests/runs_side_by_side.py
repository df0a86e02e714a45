"""Run as a program: what DSPy's compiles and evaluations leave in MLflow's runs with one autolog, as JSON.

`python runs_side_by_side.py (ours|mlflows)`
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import dspy
import mlflow
import pytest
from evaluations import DEVSET, exact
from offline_lm import OfflineLM

from dspy_mlflow_callbacks import autolog

EVALUATE = dspy.Evaluate(devset=DEVSET, metric=exact, num_threads=2)


def program():
    return dspy.ChainOfThought("question -> answer")


def copro():
    optimizer = dspy.COPRO(metric=exact, breadth=2, depth=1)
    optimizer.compile(program(), trainset=DEVSET, eval_kwargs={"num_threads": 2})


def labeled_few_shot():
    dspy.LabeledFewShot(k=2).compile(program(), trainset=DEVSET, sample=False)


def bootstrap_few_shot():
    optimizer = dspy.BootstrapFewShot(metric=exact, max_bootstrapped_demos=1, max_labeled_demos=0)
    optimizer.compile(program(), trainset=DEVSET[1:])


def failing_compile():
    def broken(example, prediction, trace=None):
        raise ZeroDivisionError

    optimizer = dspy.BootstrapFewShot(metric=broken, max_errors=1, max_labeled_demos=0)
    with pytest.raises(ZeroDivisionError):
        optimizer.compile(program(), trainset=DEVSET)


def evaluate():
    EVALUATE(program())


def evaluate_twice_in_a_run():
    with mlflow.start_run(run_name="mine"):
        EVALUATE(program())
        mlflow.log_metric("mine", 1)


def evaluate_with_metadata():
    EVALUATE(program(), callback_metadata={"metric_key": "eval_full"})
    EVALUATE(program(), callback_metadata={"disable_logging": True})


def failing_evaluation():
    class Broken(dspy.Module):
        def forward(self, question):
            raise ZeroDivisionError

    evaluation = dspy.Evaluate(devset=DEVSET, metric=exact, num_threads=1, max_errors=1)
    with pytest.raises(Exception, match="cancelled"):
        evaluation(Broken())


def evaluate_without_an_lm_of_dspys():
    with dspy.context(lm=None):
        own = program()
        own.set_lm(OfflineLM())
        EVALUATE(own)


PROGRAMS = {
    each.__name__: each
    for each in (
        copro,
        labeled_few_shot,
        bootstrap_few_shot,
        failing_compile,
        evaluate,
        evaluate_twice_in_a_run,
        evaluate_with_metadata,
        failing_evaluation,
        evaluate_without_an_lm_of_dspys,
    )
}


def described(experiment_ids):
    """Return the runs as they began, each as plain values that are the same in every process."""
    runs = mlflow.search_runs(experiment_ids, output_format="list", order_by=["attributes.start_time"])
    numbers = {run.info.run_id: number for number, run in enumerate(runs)}
    return [described_run(run, numbers) for run in runs]


def described_run(run, numbers):
    client = mlflow.MlflowClient()
    kept = ("mlflow.autologging", "mlflow.loggedArtifacts")
    named = run.info.run_name if run.info.run_name.startswith(("eval", "mine")) else "made up"
    return {
        "status": run.info.status,
        "name": named,
        "parent": numbers.get(run.data.tags.get("mlflow.parentRunId")),
        "tags": {name: run.data.tags[name] for name in kept if name in run.data.tags},
        "params": run.data.params,
        "metrics": {
            name: [[each.step, each.value] for each in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        },
        "datasets": [
            {
                "name": each.dataset.name,
                "digest": each.dataset.digest,
                "context": [tag.value for tag in each.tags if tag.key == "mlflow.data.context"],
                "schema": json.loads(each.dataset.schema or "null"),
                "profile": json.loads(each.dataset.profile or "null"),
            }
            for each in (run.inputs.dataset_inputs if run.inputs else ())
        ],
        "models": len(run.outputs.model_outputs) if run.outputs else 0,
        "artifacts": {each.path: artifact(run, each.path) for each in client.list_artifacts(run.info.run_id)},
    }


def artifact(run, path):
    local = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=path)
    return json.loads(Path(local).read_text())


if __name__ == "__main__":
    switch = autolog if sys.argv[1] == "ours" else mlflow.dspy.autolog
    switch(log_compiles=True, log_evals=True)
    dspy.settings.configure(lm=OfflineLM())
    left = {}
    for name, run in PROGRAMS.items():
        experiment = mlflow.set_experiment(name)
        run()
        left[name] = described([experiment.experiment_id])
    sys.stdout.write(f"\n{json.dumps(left)}\n")
