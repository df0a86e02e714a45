"""The pytest plugin, as a user's project has it: fixtures, marker and options, without a line of configuration."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
from mlflow.entities import Trace

pytestmark = pytest.mark.timeout(300)  # four fresh interpreters

TESTS = """
import os, threading
import dspy, mlflow, pytest
from dspy.utils.dummies import DummyLM
from inline_snapshot import snapshot
from dspy_mlflow_callbacks import MlflowCallback

LEAF = []
TREE = [
    ("Predict", "CHAIN", "OK", [
        ("ChatAdapter.format", "PARSER", "OK", []),
        ("dummy", "CHAT_MODEL", "OK", []),
        ("ChatAdapter.parse", "PARSER", "OK", []),
    ])
]

@pytest.fixture(autouse=True)
def lm():
    dspy.configure(lm=DummyLM([{"answer": "42"}] * 9), callbacks=[MlflowCallback(tags={"mine": "yes"})])

def ask(question="why?"):
    return dspy.Predict("question -> answer")(question=question)

def test_tree(dspy_traces):
    ask()
    assert dspy_traces.tree() == TREE
    assert "mine" not in dspy_traces.one().info.tags

def test_isolated(dspy_traces):
    assert dspy_traces.all() == []

def test_settings_are_put_back(request):
    if request.config.getoption("--dspy-trace-dir"):
        return  # then this test is captured too
    assert [type(each).__name__ for each in dspy.settings.callbacks] == ["MlflowCallback"]
    assert not mlflow.get_tracking_uri().startswith("dspy-memory")

def test_inline_snapshot(dspy_traces):
    ask()
    assert dspy_traces.tree() == snapshot(TREE)

def test_syrupy(dspy_traces, snapshot):
    ask()
    assert dspy_traces.tree() == snapshot

def test_threads(dspy_traces):
    threads = [threading.Thread(target=ask) for _ in range(4)]
    [each.start() for each in threads]
    [each.join() for each in threads]
    assert len(dspy_traces.lms()) == 4

@pytest.mark.dspy_trace(max_lm_calls=2, max_tokens=0, max_cost_usd=0, max_retries=0)
def test_within_limits():
    ask()

@pytest.mark.dspy_trace(max_lm_calls=1)
def test_beyond_limits():
    ask()
    ask()

@pytest.mark.dspy_trace(max_lm_calls=-1)
def test_wrong_limit():
    pass

def test_fails(dspy_traces):
    ask()
    assert dspy_traces.tree() == []

def test_fails_without_fixture():
    ask()
    assert False

@pytest.mark.parametrize("question", ["why?", "a/b"])
def test_replay(dspy_replay, question):
    assert ask(question).answer == "42"

class TestInClass:
    def test_replay(self, dspy_replay):
        assert ask("in a class").answer == "42"

def test_fails_while_recording(dspy_replay):
    ask()
    assert dspy_replay.mode == "once"
    assert False
"""

PASS = {
    "test_tree",
    "test_isolated",
    "test_settings_are_put_back",
    "test_inline_snapshot",
    "test_syrupy",
    "test_threads",
    "test_within_limits",
}
FAIL = {
    "test_beyond_limits",
    "test_wrong_limit",
    "test_fails",
    "test_fails_without_fixture",
    "test_fails_while_recording",
}
REPLAYS = {"test_replay[why?]", "test_replay[a/b]", "TestInClass.test_replay"}


def run(folder, *arguments):
    """Run pytest in a folder as a user does; return its exit code, output and the results by test."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly", "--junitxml=results.xml"]
    done = subprocess.run([*command, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    report = folder / "results.xml"
    cases = ET.parse(report).iter("testcase") if report.exists() else ()  # noqa: S314  (written by the run)
    results = {_name(case): "failed" if len(case) and case[0].tag != "system-out" else "passed" for case in cases}
    return done.returncode, done.stdout, results


def _name(case):
    _, _, cls = case.get("classname").partition(".")
    return f"{cls}.{case.get('name')}" if cls else case.get("name")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Return a user's project: its tests ran twice, recording in two processes, then offline in one."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "test_mine.py").write_text(TESTS)
    recording = run(folder, "--dspy-record-mode=once", "--snapshot-update", "-n", "2", "--dspy-trace-dir=kept")
    replaying = run(folder, "-rA")
    return folder, recording, replaying


def of(results, outcome):
    return {name for name, each in results.items() if each == outcome}


def test_fixtures_work_in_a_users_project(project):
    """Traces are captured, isolated and compared, also with syrupy and inline-snapshot; settings are put back."""
    _, _, (_, output, results) = project
    assert of(results, "passed") == PASS | REPLAYS, output
    assert of(results, "failed") == FAIL


def test_fixtures_work_in_several_processes(project):
    """Under pytest-xdist each process captures its own."""
    _, (_, output, results), _ = project
    assert of(results, "passed") == PASS | REPLAYS, output


def test_limits_say_what_was_exceeded(project):
    """A test that spends more than its marker allows fails with what it spent; a wrong limit is refused by name."""
    _, _, (_, output, _) = project
    assert "AssertionError: max_lm_calls=1, and the test's programs came to 2" in output
    assert "ValueError: max_lm_calls must be a number from 0 on, got -1" in output


def test_a_failing_test_shows_its_traces(project):
    """The report of a failing test has a section with the trees of its traces."""
    _, _, (_, output, _) = project
    failed = output.partition(" test_fails ")[2].partition(" test_fails_without_fixture ")[0]
    shown = failed.partition(" DSPy traces ")[2]
    assert "\nPredict  CHAIN  " in shown
    assert "├─ dummy  CHAT_MODEL  " in shown


def test_traces_of_failing_tests_are_kept(project):
    """`--dspy-trace-dir` keeps the traces of failing tests, with or without fixture, as files MLflow can read."""
    folder, _, _ = project
    kept = {path.parent.name: path for path in (folder / "kept").rglob("*.json")}
    assert kept.keys() == {f"test_mine.py.{name}" for name in FAIL - {"test_wrong_limit"}}
    trace = Trace.from_dict(json.loads(kept["test_mine.py.test_fails_without_fixture"].read_text()))
    assert trace.data.spans[0].name == "Predict"


def test_recordings_stand_beside_the_test(project):
    """Each test that passed has its file beside it, of a name that every system allows; one that failed has none."""
    folder, _, _ = project
    files = {str(path.relative_to(folder)) for path in folder.rglob("*.yaml")}
    names = ("TestInClass.test_replay", "test_replay_a_b", "test_replay_why")
    assert files == {f"dspy_replays/test_mine/{name}.yaml" for name in names}


def test_without_a_recording_a_test_fails(project):
    """Where nothing was recorded, a test fails with what to do."""
    _, _, (code, output, _) = project
    assert code == 1
    assert "test_fails_while_recording.yaml has no recorded answers: record them with --dspy-record-mode=once" in output


UNUSED = '''
import sys

def test_nothing_heavy_is_imported():
    """
    >>> 1
    1
    """
    assert [name for name in ("dspy", "mlflow") if name in sys.modules] == []
'''


def test_the_plugin_costs_nothing_where_nobody_asks(tmp_path):
    """Neither dspy nor mlflow is imported until a test asks for a fixture; doctests run beside."""
    (tmp_path / "test_mine.py").write_text(UNUSED)
    code, output, results = run(tmp_path, "--doctest-modules")
    assert (code, len(results)) == (0, 2), output
