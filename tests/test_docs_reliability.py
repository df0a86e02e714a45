"""docs/reliability.md: its blocks run as they stand, and the tests that it names are there."""

from __future__ import annotations

import re
import shlex

import dspy
import pytest
from docs_blocks import ROOT, Page, blocks_that_run
from ended import EndedTrace
from spooled_traces import spool_at

from dspy_mlflow_callbacks.cli import main
from dspy_mlflow_callbacks.export.batch import Entry
from dspy_mlflow_callbacks.export.spool.contents import row_of
from dspy_mlflow_callbacks.export.waiting import Destination

PAGE = Page("docs/reliability.md")


def test_each_block_is_run():
    """No code block of the page is left out of these tests."""
    blocks = [*PAGE.blocks(), *PAGE.blocks("console")]
    assert [block for block in blocks if not any(text in block for text in blocks_that_run(__file__))] == []


@pytest.mark.parametrize("name", re.findall(r"`(test_\w+)`", PAGE.text))
def test_the_tests_that_show_it_are_there(name):
    """A promise names the test that shows it."""
    assert any(f"def {name}(" in file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))


def test_a_spool_of_one_s_own(tmp_path):
    """The block on code gives the callback a durable spool."""
    names = PAGE.run("spool_dir=", replace=("/var/spool/answers", str(tmp_path)), dspy=dspy)
    spool = names["callback"].config.spool()
    assert (spool.folder, spool.durable, spool.max_bytes) == (str(tmp_path), True, 1_000_000_000)


@pytest.mark.warns
@pytest.mark.usefixtures("own_folder")
def test_the_commands(monkeypatch, tmp_path, capsys):
    """The commands run, one after the other, and say what the page says that they do."""
    monkeypatch.setenv("DSPY_MLFLOW_SPOOL_DIR", str(tmp_path / "spool"))
    spool = spool_at(tmp_path / "spool")
    trace = EndedTrace(Destination(tracking_uri="http://127.0.0.1:9", experiment_id="7"))
    spool.add(row_of(Entry(0, trace, 1, trace.prepared()), 1e12), is_mine=False)
    spool.database.close()
    commands = [line for line in PAGE.block("spool status", "console").splitlines() if line.startswith("$ dspy-mlflow")]
    statuses = []
    for command in commands:
        with pytest.raises(SystemExit) as exited:
            main(shlex.split(command)[2:])
        statuses.append(exited.value.code)
    said = capsys.readouterr().out.splitlines()
    assert statuses == [0, 1, 1, 0]
    assert said[0] == f"{tmp_path / 'spool'}: 1 traces wait, 0 were refused."
    assert said[-3:] == ["0 traces delivered, 1 left, 0 refused."] * 2 + ["1 traces written to traces.jsonl."]
