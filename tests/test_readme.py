"""The README's code blocks run as they stand."""

from __future__ import annotations

import subprocess
import sys

import dspy
import mlflow
import pytest
from docs_blocks import Page
from programs import answering, predict_tree

from dspy_mlflow_callbacks import autolog
from dspy_mlflow_callbacks.testing.captured import tree

PAGE = Page("README.md")


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    """Let the blocks run as they stand where no provider can be reached."""
    monkeypatch.setattr(dspy, "LM", lambda model: answering())


def test_the_line_of_code_stands_first():
    """The first block is the one line that a user writes."""
    assert PAGE.blocks()[0] == PAGE.block("dspy.configure(callbacks=[MlflowCallback()])\n")


def test_everything_a_process_runs(tmp_path, monkeypatch, dspy_traces):
    """The block on the global callback stores a trace in the store and experiment that it names."""
    monkeypatch.chdir(tmp_path)
    PAGE.run('mlflow.set_experiment("questions")')
    mlflow.flush_trace_async_logging()
    experiment = mlflow.get_experiment_by_name("questions")
    (trace,) = mlflow.search_traces(locations=[experiment.experiment_id], return_type="list")
    assert (tmp_path / "mlflow.db").exists()
    assert trace.info.tags["mlflow.traceName"] == "ChainOfThought"


def test_one_program(dspy_traces):
    """The block on one program's callback traces with its tags, unless its sampler drops the trace."""
    dspy.configure(lm=answering(times=400), callbacks=[])
    program = PAGE.run("attach(program,")["program"]
    for _ in range(200):
        program(question="why?")
    traces = dspy_traces.all()
    assert 0 < len(traces) < 100
    assert {trace.info.tags["team"] for trace in traces} == {"search"}


def test_a_program_that_is_not_changed(dspy_traces):
    """The block on `autolog` traces a share of what the program runs."""
    dspy.configure(lm=answering(times=400), callbacks=[])
    try:
        PAGE.run("autolog(sampling_ratio=0.1)")
        for _ in range(200):
            dspy.Predict("question -> answer")(question="why?")
    finally:
        autolog(disable=True)
    assert 0 < len(dspy_traces.all()) < 100


def test_options(dspy_traces):
    """The block on options gives traces its session, user and tags, in its experiment and without adapter spans."""
    dspy.configure(lm=answering(times=200))
    block = PAGE.block('experiment="questions",').replace("sampling_ratio=0.1", "sampling_ratio=1.0")
    exec(compile(block, "README.md", "exec"), {})
    mlflow.flush_trace_async_logging()
    experiment = mlflow.get_experiment_by_name("questions")
    (trace,) = mlflow.search_traces(
        locations=[experiment.experiment_id],
        filter_string="metadata.`mlflow.trace.session` = 's-1'",
        return_type="list",
    )
    assert (trace.info.tags["service"], trace.info.trace_metadata["mlflow.trace.session"]) == ("answers", "s-1")
    assert trace.info.trace_metadata["mlflow.trace.user"] == "ada"
    assert tree(trace) == [("Predict", "CHAIN", "OK", [("dummy", "CHAT_MODEL", "OK", [])])]


def test_secrets(dspy_traces):
    """The block on a payload step of one's own takes its name out, and `Redactor` the key."""
    callback = PAGE.run("def without_names")["callback"]
    with dspy.context(lm=answering(), callbacks=[callback]):
        dspy.Predict("question -> answer")(question="Is Ada Lovelace's key sk-proj-a1B2c3D4e5F6g7H8i9J0k1L2m3N4?")
    assert dspy_traces.spans(name="Predict")[0].inputs == {"question": "Is [name]'s key [redacted]?"}


def test_a_test(tmp_path):
    """The block on the fixture is a test that passes."""
    (tmp_path / "test_block.py").write_text(PAGE.block("def test_the_program_asks"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_middleware(dspy_traces):
    """The block on middleware drops judges, tags roots and keeps a share of the traces."""
    PAGE.run("def without_judges")
    dspy.configure(lm=answering(times=800))

    class Judged(dspy.Module):
        def __init__(self):
            super().__init__()
            self.answer, self.judge = dspy.Predict("question -> answer"), dspy.Predict("question -> answer")

        def forward(self):
            self.answer(question="why?")
            return self.judge(question="why?")

    for _ in range(200):
        Judged()()
    traces = dspy_traces.all()
    assert 0 < len(traces) < 100
    assert [tree(trace) for trace in traces] == [[("Judged", "CHAIN", "OK", [predict_tree("Judged.answer")])]] * len(
        traces
    )
    assert {trace.info.tags["tenant"] for trace in traces} == {"acme"}
