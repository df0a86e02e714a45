"""`dspy-mlflow replay ID`: exit status, report and errors."""

from __future__ import annotations

import io
import json
import sys

import dspy
import pytest
from dspy.utils.dummies import DummyLM
from replays import Steps, counting, record

from dspy_mlflow_callbacks.cli import main

APP = """
import dspy
from replays import Steps, instructed

program = Steps()

def changed():
    return instructed(Steps(), "Otherwise.")

class Holder:
    made = Steps()

number = 7
"""

WHY = {"question": "why?"}


@pytest.fixture
def run(dspy_traces, own_folder, tmp_path, monkeypatch, capsys):
    """Return what runs the command in a folder that has `app.py`, and returns status, output and errors."""
    (tmp_path / "app.py").write_text(APP)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "app", raising=False)

    def run(*arguments):
        with pytest.raises(SystemExit) as exited:
            main(["replay", *arguments])
        return (exited.value.code, *capsys.readouterr())

    yield run
    sys.modules.pop("app", None)


@pytest.fixture
def trace(dspy_traces):
    """Return the trace of `Steps`."""
    return record(dspy_traces, lambda: Steps()(**WHY))[0]


@pytest.mark.parametrize("program", ["app:program", "app:Holder.made"])
def test_an_equal_replay_exits_with_0(run, trace, program):
    """A program that does the same is reported as equal, with status 0."""
    status, output, errors = run(trace.info.trace_id, "--program", program)
    assert (status, errors) == (0, "")
    assert output.startswith(f"# Replay of {trace.info.trace_id}\n\nEqual; mode strict, its trace is tr-")


def test_a_divergence_exits_with_1(run, trace):
    """A program that diverged is reported with the diff of its prompt, with status 1; a function makes it."""
    status, output, _ = run(trace.info.trace_id, "--program", "app:changed", "--mode", "lenient")
    assert status == 1
    assert "## 1. prompt: Steps.second > dummy" in output
    assert "+        Otherwise." in output


def test_json_is_printed_if_asked_for(run, trace, tmp_path):
    """`--json` prints what a program reads; a file stands for an id."""
    file = tmp_path / "trace.json"
    file.write_text(trace.to_json())
    status, output, _ = run(str(file), "--program", "app:program", "--json")
    assert (status, json.loads(output)["is_equal"], json.loads(output)["of"]) == (0, True, trace.info.trace_id)


def test_divergences_are_in_the_json(run, trace):
    """`--json` has all that is known of a divergence, by name."""
    status, output, _ = run(trace.info.trace_id, "--program", "app:changed", "--json")
    (divergence,) = json.loads(output)["divergences"]
    assert divergence.pop("span_id") in {span.span_id for span in trace.data.spans}
    assert "+        Otherwise." in divergence.pop("diff").split("\n")
    assert (status, divergence) == (
        1,
        {"kind": "prompt", "span": "Steps.second > dummy", "field": "messages[0] (system)"},
    )


def test_a_fork_goes_on_with_the_real_lm(run, trace):
    """`--from-span` and `--tools` say what is real."""
    lm = DummyLM([{"answer": "real"}])
    arguments = ["--program", "app:program", "--mode", "live", "--from-span", "Steps.second", "--tools", "live"]
    with dspy.context(lm=lm):
        status, output, _ = run(trace.info.trace_id, *arguments)
    assert (status, len(lm.history)) == (1, 1)
    assert '+  "answer": "real"' in output


WRONG = {
    "no trace": (
        ["tr-0123456789abcdef0123456789abcdef", "--program", "app:program"],
        "look for its id with mlflow.search_traces",
    ),
    "no program": (["ID"], "it names no logged model"),
    "no attribute": (["ID", "--program", "app"], "--program must be MODULE:ATTRIBUTE, such as app:program, got 'app'"),
    "an unknown module": (["ID", "--program", "nowhere:program"], "No module named 'nowhere'"),
    "an unknown attribute": (["ID", "--program", "app:nothing"], "has no attribute 'nothing'"),
    "no DSPy program": (["ID", "--program", "app:number"], "program must be a dspy.Module or a function, got 7"),
    "a span without live": (["ID", "--program", "app:program", "--from-span", "Steps"], "goes with mode='live'"),
    "a wrong mode": (["ID", "--mode", "exact"], "'exact' is not one of 'strict', 'lenient', 'live'"),
}


@pytest.mark.parametrize(("arguments", "said"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_replayed_exits_with_2(run, trace, arguments, said):
    """What is wrong is said in one message, with status 2 and no output."""
    arguments = [trace.info.trace_id if each == "ID" else each for each in arguments]
    status, output, errors = run(*arguments)
    assert (status, output) == (2, "")
    assert said in errors


def test_nothing_is_printed_that_a_terminal_would_obey(run, dspy_traces, monkeypatch):
    """Control characters in prompts and answers are printed as escapes; so is what the terminal cannot show."""
    lm = counting()
    trace, _ = record(dspy_traces, lambda: Steps()(question="\x1b[2Jwhy\t\u202e\u2603?"), lm)
    _, output, _ = run(trace.info.trace_id, "--program", "app:changed")
    assert "\\x1b[2Jwhy" in output
    assert "\x1b" not in output
    assert "\\u202e\u2603" in output
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", ascii_only)
    run(trace.info.trace_id, "--program", "app:changed")
    ascii_only.flush()
    assert b"\\u2603" in ascii_only.buffer.getvalue()
