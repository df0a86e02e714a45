"""A quick look at an installed wheel: each engine stores a trace of each kind of call.

`matrix.py` runs it in every cell.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import dspy
import mlflow
import pytest
from dspy.utils.dummies import DummyLM

import dspy_mlflow_callbacks
from dspy_mlflow_callbacks import MlflowCallback, attach, flush, load_program, mlflow_internals, save_program

ENGINES = ["native"] if mlflow_internals.missing_in_mlflow() else ["native", "recorded"]
PREDICT = [("ChatAdapter.format", "PARSER"), ("dummy", "CHAT_MODEL"), ("ChatAdapter.parse", "PARSER")]


class Program(dspy.Module):
    """A module in a module."""

    def __init__(self):
        super().__init__()
        self.generate = dspy.ChainOfThought("question -> answer")

    def forward(self, question):
        return self.generate(question=question)


@pytest.fixture(scope="session")
def experiment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    return mlflow.create_experiment("matrix", artifact_location=folder.as_uri())


@pytest.fixture(params=ENGINES)
def traces(request, experiment):
    """Trace on an engine; returns what gives the (name, type) of the spans of each of the test's traces, in order."""
    mlflow.set_experiment(experiment_id=experiment)
    before = {trace.info.trace_id for trace in stored(experiment)}
    answers = [{"reasoning": "because", "answer": "42"}] * 50
    with dspy.context(lm=DummyLM(answers), callbacks=[MlflowCallback(engine=request.param)]):
        yield lambda: [
            [(span.name, span.span_type) for span in sorted(trace.data.spans, key=lambda span: span.start_time_ns)]
            for trace in stored(experiment)
            if trace.info.trace_id not in before
        ]


def stored(experiment):
    assert flush(60)
    mlflow.flush_trace_async_logging()
    return mlflow.search_traces(locations=[experiment], return_type="list")


def test_the_wheel_is_what_runs():
    """The package comes from where it is installed."""
    assert Path(dspy_mlflow_callbacks.__file__).is_relative_to(sys.prefix)


def test_modules_lms_and_adapters(traces):
    """A program's call is one trace of its modules, its model and its adapter."""
    Program()(question="Why?")
    names = ("Program", "Program.generate", "Program.generate.predict")
    assert traces() == [[*((name, "CHAIN") for name in names), *PREDICT]]


def test_threads(traces):
    """What runs in DSPy's threads is part of the trace."""

    class Panel(dspy.Module):
        def forward(self):
            return dspy.Parallel(num_threads=2, disable_progress_bar=True)([(Program(), {"question": "Why?"})] * 3)

    Panel()()
    (trace,) = traces()
    assert len(trace) == 19


def test_tools(traces):
    """A tool's call is a span of its name, also where it raises."""

    def add(a: int, b: int) -> int:
        return a + b

    def fail() -> None:
        raise ArithmeticError

    dspy.Tool(add)(a=1, b=2)
    with pytest.raises(ArithmeticError):
        dspy.Tool(fail)()
    assert sorted(traces()) == [[("add", "TOOL")], [("fail", "TOOL")]]


def test_interpreters(traces):
    """What a code interpreter runs is a span, where there is one to run it."""
    interpreter = dspy.PythonInterpreter()
    with contextlib.suppress(Exception):  # no Deno on this machine; the call has been made
        interpreter.execute("1 + 1")
    kinds = {name for trace in traces() for name, _ in trace}
    assert "execute" in kinds


def test_evaluations(traces):
    """An evaluation is a trace, and so is each of its examples."""
    devset = [dspy.Example(question="Why?", answer="42").with_inputs("question")] * 2
    dspy.Evaluate(devset=devset, metric=lambda example, prediction, trace=None: True, num_threads=2)(Program())
    assert sorted(trace[0] for trace in traces()) == [("Evaluate", "EVALUATOR"), *[("Example", "CHAIN")] * 2]


def test_optimizers(traces):
    """A compile is a trace of its trials."""
    trainset = [dspy.Example(question="Why?", answer="42").with_inputs("question")] * 2
    optimizer = dspy.BootstrapFewShot(metric=lambda example, prediction, trace=None: True, max_bootstrapped_demos=1)
    optimizer.compile(Program(), trainset=trainset)
    assert ("BootstrapFewShot", "WORKFLOW") in [trace[0] for trace in traces()]


def test_saved_programs(traces, tmp_path):
    """A saved program is traced where it is loaded."""
    save_program(attach(Program(), MlflowCallback(tags={"team": "search"})), tmp_path / "state.json")
    load_program(tmp_path / "state.json", Program())(question="Why?")
    assert [len(trace) for trace in traces()] == [6]


def test_the_command():
    """The command answers, and finds nothing that hinders it."""
    done = subprocess.run(
        [sys.executable, "-m", "dspy_mlflow_callbacks", "--help"], capture_output=True, text=True, check=True
    )
    assert "doctor" in done.stdout
