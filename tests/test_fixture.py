"""The pytest fixture `dspy_traces`, as a user's project has it."""

from __future__ import annotations

import contextvars
import functools
import os
import subprocess
import sys

import dspy
import mlflow
import pytest
from mlflow.entities.trace_location import MlflowExperimentLocation
from programs import PROGRAM_SPANS, Program, answering, program_tree
from threads import at_once

from dspy_mlflow_callbacks import CallKind, MlflowCallback, TagInjector
from dspy_mlflow_callbacks.testing.capture import capture_traces
from dspy_mlflow_callbacks.testing.captured import CapturedTraces, tree


@pytest.fixture(autouse=True)
def _lm():
    dspy.configure(lm=answering())


def test_one_is_the_only_trace(dspy_traces):
    """`one` returns the trace, and raises an error that shows the trees when there is not exactly one."""
    with pytest.raises(AssertionError, match=r"expected one trace, got 0: \[\]"):
        dspy_traces.one()
    Program()(question="why?")
    assert dspy_traces.one().info.tags["mlflow.traceName"] == "Program"
    Program()(question="again?")
    with pytest.raises(AssertionError, match=r"expected one trace, got 2: \[\[\('Program', 'CHAIN', 'OK'"):
        dspy_traces.one()


def test_all_is_in_the_order_in_which_traces_began(dspy_traces):
    """`all` returns the traces oldest first."""
    for number in range(5):
        Program()(question=f"{number}")
    assert [trace.data.request for trace in dspy_traces.all()] == [f'{{"question":"{n}"}}' for n in range(5)]


def test_many_threads_store_at_once(dspy_traces):
    """A trace of each of 32 threads that end their programs at the same time is stored."""
    work = functools.partial(Program(), question="why?")
    at_once(*[functools.partial(contextvars.copy_context().run, work) for _ in range(32)])
    assert [tree(trace) for trace in dspy_traces.all()] == [[program_tree()]] * 32


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({}, PROGRAM_SPANS),
        ({"kind": "lm"}, ["dummy"]),
        ({"kind": CallKind.MODULE}, ["Program", "Program.generate", "Program.generate.predict"]),
        ({"name": "ChatAdapter.parse"}, ["ChatAdapter.parse"]),
        ({"kind": "module", "name": "ChatAdapter.parse"}, []),
    ],
)
def test_spans_are_asked_for_by_kind_and_name(dspy_traces, query, names):
    """`spans` returns all spans, or those of a kind or name."""
    Program()(question="why?")
    assert [span.name for span in dspy_traces.spans(**query)] == names


def test_an_unknown_kind_is_refused(dspy_traces):
    """A kind that does not exist raises ValueError that names it."""
    with pytest.raises(ValueError, match="'llm' is not a valid CallKind"):
        dspy_traces.spans(kind="llm")


def test_a_configured_callback_stays_outside(tmp_path):
    """Inside, a bare callback stands in for the user's; afterwards settings, store and experiment are as before."""
    others = [MlflowCallback(middleware=[TagInjector({"mine": "yes"})])]
    dspy.configure(callbacks=others)
    uri, environment = mlflow.get_tracking_uri(), {k: v for k, v in os.environ.items() if k.startswith("MLFLOW")}
    with capture_traces(tmp_path) as traces:
        Program()(question="why?")
        assert "mine" not in traces.one().info.tags
        dspy.configure(callbacks=[])
    assert dspy.settings.callbacks == others
    assert mlflow.get_tracking_uri() == uri
    assert {k: v for k, v in os.environ.items() if k.startswith("MLFLOW")} == environment


def test_a_destination_and_a_disabled_tracing_are_put_back(tmp_path):
    """A user's destination holds again afterwards, and tracing that was disabled is disabled again."""
    mine = tmp_path / "mine"
    mine.mkdir()
    with capture_traces(mine) as outer:
        chosen = mlflow.create_experiment("chosen", artifact_location=mine.as_uri())
        mlflow.tracing.set_destination(MlflowExperimentLocation(chosen))
        with capture_traces(tmp_path) as inner:
            Program()(question="inside")
            assert inner.tree() == [program_tree()]
        Program()(question="outside")
        assert CapturedTraces(chosen).one().data.request == '{"question":"outside"}'
        assert outer.all() == []
        mlflow.tracing.disable()
        with capture_traces(tmp_path) as inner:
            Program()(question="inside")
            assert inner.tree() == [program_tree()]
        Program()(question="unseen")
        assert len(CapturedTraces(chosen).all()) == 1


TESTS_OF_A_USER = """
import dspy
from dspy.utils.dummies import DummyLM

def test_it(dspy_traces):
    dspy.configure(lm=DummyLM([{"answer": "42"}]))
    dspy.Predict("question -> answer")(question="why?")
    assert dspy_traces.tree() == [
        ("Predict", "CHAIN", "OK", [
            ("ChatAdapter.format", "PARSER", "OK", []),
            ("dummy", "CHAT_MODEL", "OK", []),
            ("ChatAdapter.parse", "PARSER", "OK", []),
        ])
    ]

def test_isolated(dspy_traces):
    assert dspy_traces.all() == []
"""

UNUSED = """
import sys

def test_nothing_heavy_is_imported():
    assert [name for name in ("dspy", "mlflow") if name in sys.modules] == []
"""


@pytest.mark.parametrize("tests", [TESTS_OF_A_USER, UNUSED])
def test_a_users_project_has_the_fixture(tmp_path, tests):
    """The fixture is there without a line of configuration, and costs nothing until a test asks for it."""
    (tmp_path / "test_mine.py").write_text(tests)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "test_mine.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
