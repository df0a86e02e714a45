"""docs/replay.md: what it says is so, and its blocks run as they stand."""

from __future__ import annotations

import shlex
import sys

import dspy
import mlflow
import pytest
from docs_blocks import Page, blocks_that_run
from programs import Answer, Program
from replays import counting, fields, record

from dspy_mlflow_callbacks import MlflowCallback, replay
from dspy_mlflow_callbacks.cli import main
from dspy_mlflow_callbacks.replaying.divergences import Kind

pytestmark = pytest.mark.usefixtures("own_folder")

PAGE = Page("docs/replay.md")


class Predicts(dspy.Module):
    """The page's program, without reasoning."""

    def __init__(self):
        super().__init__()
        self.generate = Answer()

    def forward(self, question):
        return self.generate(question=question)


Predicts.__name__ = "Program"


@pytest.fixture
def names(dspy_traces):
    """Return what the page takes for granted."""
    program = Predicts()
    lm = counting()
    lm.model = "openai/gpt-4o-mini"
    trace, _ = record(dspy_traces, lambda: program(question="why?"), lm)
    other = dspy.utils.DummyLM([{"answer": "real"}])
    taken = {"mlflow": mlflow, "replay": replay, "program": program, "trace_id": trace.info.trace_id}
    return {**taken, "again": replay(trace, program), "other_lm": other}


def test_each_block_is_run():
    """No code block of the page is left out of these tests."""
    blocks = [*PAGE.blocks(), *PAGE.blocks("console"), *PAGE.blocks("text")]
    texts = blocks_that_run(__file__)
    assert [block for block in blocks if not any(text in block for text in texts)] == []


def test_a_trace_replays(names, capsys):
    """The first block replays the last call, and prints what it returned."""
    with dspy.context(lm=counting()):
        names["program"](question="why?")
    assert PAGE.run("again.is_equal", **names)["again"].is_equal
    assert "answer 0" in capsys.readouterr().out


def test_replays_are_found_by_their_origin(names):
    """A search for the tag finds the replays of a trace."""
    replays = PAGE.run("dspy.replay.of", **names)["replays"]
    assert [each.info.trace_id for each in replays] == [names["again"].trace.info.trace_id]


def test_a_changed_instruction_is_shown(names, capsys):
    """The page shows what is printed, but for the span's id."""
    PAGE.run("divergence.diff", **names)
    printed, shown = capsys.readouterr().out, PAGE.block("Answer in one word.", "text")
    assert printed.partition("\n")[2] == shown.partition("\n")[2]
    assert printed.partition(" (span ")[0] == shown.partition(" (span ")[0]
    assert printed.splitlines()[0].endswith("messages[0] (system)")


def test_all_divergences_are_listed(names, capsys):
    """The block on lenient prints a report."""
    assert PAGE.run('mode="lenient"', **names)["again"].is_equal
    assert capsys.readouterr().out.startswith("# Replay of tr-")


def test_a_fork_goes_on(names):
    """The block on live asks the other LM."""
    assert fields(PAGE.run("forked =", **names)["forked"].outputs) == {"answer": "real"}


def test_the_kinds_of_divergence_are_listed():
    """The table has each kind."""
    rows = PAGE.rows("| `kind` |")
    assert sorted(name.strip(" `") for row in rows for name in row[0].split(",")) == sorted(Kind.__args__)


def test_level_info_is_enough(dspy_traces):
    """A trace without adapters replays, as the page says."""
    with dspy.context(callbacks=[MlflowCallback(level="info")]):
        trace, _ = record(dspy_traces, lambda: Program()(question="why?"), callbacks=dspy.settings.callbacks)
    assert "ChatAdapter.format" not in {span.name for span in trace.data.spans}
    with dspy.context(callbacks=[]):
        assert replay(trace, Program()).is_equal


def test_a_file_replays_here_and_from_the_shell(names, tmp_path, monkeypatch, capsys):
    """The block on files writes one and replays it, and the command does."""
    PAGE.run("trace.json", **names)
    (tmp_path / "app.py").write_text("from test_docs_replay import Predicts\nprogram = Predicts()\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "app", raising=False)
    command, *arguments = shlex.split(PAGE.script("dspy-mlflow replay"))
    with pytest.raises(SystemExit) as exited:
        main(arguments)
    assert (command, exited.value.code) == ("dspy-mlflow", 0)
    assert "Equal" in capsys.readouterr().out
    sys.modules.pop("app", None)
