"""The README's code blocks run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import dspy
import mlflow
import pytest
from programs import answering, predict_tree

from dspy_mlflow_callbacks.testing.captured import tree

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def block_with(text: str) -> str:
    (block,) = [block for block in BLOCKS if text in block]
    return block


def run_block(text: str) -> dict:
    """Run the block that holds *text*, with an LM that answers without a network; return its names."""
    names: dict = {}
    exec(compile(block_with(text), "README.md", "exec"), names)
    return names


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    """Let the blocks run as they stand where no provider can be reached."""
    monkeypatch.setattr(dspy, "LM", lambda model: answering())


def test_the_line_of_code_stands_first():
    """The first block is the one line that a user writes."""
    assert BLOCKS[0] == "dspy.configure(callbacks=[MlflowCallback()])\n"


def test_everything_a_process_runs(tmp_path, monkeypatch, dspy_traces):
    """The block on the global callback stores a trace in the store and experiment that it names."""
    monkeypatch.chdir(tmp_path)
    run_block('mlflow.set_experiment("questions")')
    mlflow.flush_trace_async_logging()
    experiment = mlflow.get_experiment_by_name("questions")
    (trace,) = mlflow.search_traces(locations=[experiment.experiment_id], return_type="list")
    assert (tmp_path / "mlflow.db").exists()
    assert trace.info.tags["mlflow.traceName"] == "ChainOfThought"


def test_one_program(dspy_traces):
    """The block on one program's callback traces with its tags, unless its sampler drops the trace."""
    dspy.configure(lm=answering(times=200), callbacks=[])
    program = run_block("program.callbacks =")["program"]
    for _ in range(100):
        program(question="why?")
    traces = dspy_traces.all()
    assert 0 < len(traces) < 50
    assert {trace.info.tags["team"] for trace in traces} == {"search"}


def test_a_test(tmp_path):
    """The block on the fixture is a test that passes."""
    (tmp_path / "test_block.py").write_text(block_with("def test_the_program_asks"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_middleware(dspy_traces):
    """The block on middleware drops adapters, tags roots and keeps a share of the traces."""
    run_block("def without_adapters")
    dspy.configure(lm=answering(times=200))
    for _ in range(100):
        dspy.Predict("question -> answer")(question="why?")
    name, span_type, status, children = predict_tree()
    traces = dspy_traces.all()
    assert 0 < len(traces) < 50
    assert [tree(trace) for trace in traces] == [[(name, span_type, status, children[1:2])]] * len(traces)
    assert {trace.info.tags["tenant"] for trace in traces} == {"acme"}
