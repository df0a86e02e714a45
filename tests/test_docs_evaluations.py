"""docs/evaluations.md: what it says is so, and its blocks run as they stand."""

from __future__ import annotations

import dspy
import pytest
from docs_blocks import Page, blocks_that_run
from evaluations import devset, evaluation_of
from offline_lm import OfflineLM

from dspy_mlflow_callbacks import TracingConfig
from dspy_mlflow_callbacks.config.option_table import EVALUATE

PAGE = Page("docs/evaluations.md")
PROGRAM = dspy.Predict("question -> answer")


@pytest.fixture
def evaluated(dspy_traces):
    """Run the page's first block: the first of four examples is answered wrongly."""
    examples = [
        dspy.Example(question=each.question, answer="some answer" if index else "another").with_inputs("question")
        for index, each in enumerate(devset())
    ]
    dspy.configure(lm=OfflineLM())
    return lambda: PAGE.run("dspy.Evaluate(", devset=examples, program=PROGRAM)["result"].score


def test_each_block_is_run():
    """No code block of the page is left out of these tests."""
    assert [block for block in PAGE.blocks() if not any(text in block for text in blocks_that_run(__file__))] == []


def test_manners():
    """The table lists what `evaluate` may be, the default first."""
    assert tuple(row[0].strip("`") for row in PAGE.rows("| `evaluate`")) == EVALUATE
    assert TracingConfig().evaluate == EVALUATE[0]


def test_examples_are_found(dspy_traces, evaluated, capsys):
    """The block on searching finds the last evaluation, its examples, and the one that failed, with the reason."""
    assert evaluated() == 75.0
    dspy_traces.all()
    found = PAGE.run("max_results=1")
    assert found["evaluation"].info.trace_id == evaluation_of(dspy_traces).trace_id
    assert (len(found["examples"]), len(found["failed"])) == (4, 1)
    assert capsys.readouterr().out.endswith('0 {"question":"question 0"} expected another\n')


def test_a_version_is_found(dspy_traces, evaluated):
    """The block on fingerprints finds the traces of examples that were run with a program."""
    evaluated()
    dspy_traces.all()
    names = {"mlflow": __import__("mlflow"), "program": PROGRAM}
    assert len(PAGE.run("program_fingerprint(program)", **names)["of_this_version"]) == 4
    other = {**names, "program": dspy.Predict("question -> verdict")}
    assert PAGE.run("program_fingerprint(program)", **other)["of_this_version"] == []


def test_evaluations_are_compared(dspy_traces, evaluated):
    """The block on comparing matches the examples of two evaluations, with their scores."""
    ids = []
    for _ in range(2):
        evaluated()
        ids = [trace.info.trace_id for trace in dspy_traces.all() if trace.info.tags["mlflow.traceName"] == "Evaluate"]
    comparison = PAGE.run("compare_versions(", first=ids[0], second=ids[1])["comparison"]
    assert comparison.matched == 4
    assert "exact" in comparison.to_markdown()
