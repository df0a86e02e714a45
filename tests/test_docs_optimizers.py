"""docs/optimizers.md: what it says is so, and its blocks run as they stand."""

from __future__ import annotations

import dspy
import pytest
from docs_blocks import Page, blocks_that_run
from offline_lm import OfflineLM
from optimizers import TRAINSET, exact, student

from dspy_mlflow_callbacks import autolog, optimizer_runs

PAGE = Page("docs/optimizers.md")


def test_each_block_is_run():
    """No code block of the page is left out of these tests."""
    assert [block for block in PAGE.blocks() if not any(text in block for text in blocks_that_run(__file__))] == []


@pytest.fixture
def optimized(dspy_traces):
    """Run the block that compiles, and return the captured traces."""
    examples = [example.copy(answer="some answer") for example in TRAINSET[:2]]

    def always(example, prediction, trace=None):
        return False

    always.__name__ = "exact"
    PAGE.run("dspy.COPRO(", lm=OfflineLM(), metric=always, exact=always, program=student(), trainset=examples)
    return dspy_traces


def workflow_id(traces):
    return next(trace.info.trace_id for trace in traces.all() if trace.info.tags["mlflow.traceName"] == "COPRO")


def test_trials_and_their_examples(optimized):
    """The block that compiles leaves what the tables say, and the one that searches finds the examples that failed."""
    trace_id = workflow_id(optimized)
    (workflow,) = [trace for trace in optimized.all() if trace.info.trace_id == trace_id]
    said = {name for span in workflow.data.spans for name in span.attributes}
    heads = ("| attribute of a trial", "| attribute of a compile")
    written = {name.strip("` ") for head in heads for row in PAGE.rows(head) for name in row[0].split(",")}
    unbilled = {"dspy.trial.cost", "mlflow.llm.cost", "mlflow.chat.tokenUsage"}  # no price is known
    assert written - said <= unbilled
    failures = PAGE.run("failures = ", trace_id=trace_id)["failures"]
    (run,) = optimizer_runs(workflow)
    assert {trace.info.trace_id for trace in failures} == set(run.trials[1].example_traces)
    tags = {row[0].strip("`") for row in PAGE.rows("| tag | meaning |")}
    assert all(tags <= set(trace.info.tags) for trace in failures)


def test_numbers(optimized, capsys):
    """The block on numbers prints each trial, and the best."""
    import mlflow

    PAGE.run("optimizer_runs(mlflow.search_traces", mlflow=mlflow)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in printed if line[:1].isdigit()] == [["1", "full", "0.0"], ["2", "full", "0.0"]]
    assert printed[-1] == "best: 1 0.0 1"


def test_runs(dspy_traces):
    """The block on runs makes a run of a compile, and one of each of its evaluations."""
    import mlflow

    try:
        PAGE.run("log_compiles=True, log_evals=True)\n")
        with dspy.context(lm=OfflineLM()):
            dspy.COPRO(metric=exact, breadth=2, depth=1).compile(student(), trainset=TRAINSET[:2], eval_kwargs={})
    finally:
        autolog(disable=True)
    runs = mlflow.search_runs(experiment_ids=[dspy_traces.experiment_id], output_format="list")
    assert len(runs) == 3
    (compiled,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    artifacts = {each.path for each in mlflow.MlflowClient().list_artifacts(compiled.info.run_id)}
    assert {"initial_model.json", "best_model.json", "trainset.json"} <= artifacts
    assert [each.dataset.name for each in compiled.inputs.dataset_inputs] == ["trainset"]
