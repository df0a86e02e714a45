"""docs/comparison.md: what it says is so, and its blocks run as they stand."""

from __future__ import annotations

import shlex

import pytest
from compared import Answers, priced, score, version
from docs_blocks import Page, blocks_that_run

from dspy_mlflow_callbacks import CheckFailedError
from dspy_mlflow_callbacks.cli import main
from dspy_mlflow_callbacks.compare.selection import WAYS

PAGE = Page("docs/comparison.md")


@pytest.fixture
def pair(dspy_traces, openai_server):
    """Return a trace of each version, at the same cost."""
    lms = {name: priced(openai_server, 10) for name in ("v1", "v2")}
    first, second = (version(dspy_traces, name, Answers("one"), lm=lm)[0] for name, lm in lms.items())
    score(first, 0.7)
    score(second, 0.9)
    return first, second


def test_each_block_is_run():
    """No code block of the page is left out of these tests, but for those that install and measure."""
    blocks = [*PAGE.blocks(), *PAGE.blocks("console")]
    left = [block for block in blocks if not any(text in block for text in blocks_that_run(__file__))]
    assert [block.split()[1] for block in left] == ["pip", "make"]


def test_two_traces(pair, capsys):
    """The block on two traces prints them."""
    PAGE.run("compare_traces(a, b)", a=pair[0].info.trace_id, b=pair[1])
    assert "same Answers.one" in capsys.readouterr().out


@pytest.fixture
def of_versions(dspy_traces, pair):
    """Run the block on versions, in the test's experiment."""
    here = ('by="tag:version")', f'by="tag:version", experiments=["{dspy_traces.experiment_id}"])')
    return PAGE.run('compare_versions("v1"', here)["comparison"]


def test_two_versions_and_limits(of_versions):
    """The block on limits passes or fails by what was measured."""
    assert of_versions.matched == 1
    limits = PAGE.block("comparison.check(").replace("max_latency_increase=0.2", "max_latency_increase=1e9")
    exec(limits, {"comparison": of_versions})
    with pytest.raises(CheckFailedError, match="quality"):
        of_versions.check(min_score={"quality": 0.95})


def test_ways():
    """The table lists what `by` may be."""
    assert tuple(row[0].strip("`") for row in PAGE.rows("| `by`")) == WAYS


def test_the_commands(dspy_traces, pair, tmp_path, monkeypatch):
    """The commands of the page compare, and exit as it says."""
    monkeypatch.chdir(tmp_path)
    of_traces, of_versions = [shlex.split(line)[1:] for line in PAGE.script("dspy-mlflow compare").splitlines()]
    of_traces[1:3] = [trace.info.trace_id for trace in pair]
    for command in (of_traces, [*of_versions, "--experiment", dspy_traces.experiment_id]):
        with pytest.raises(SystemExit) as exited:
            main(command)
        assert exited.value.code == 0
    assert "quality" in (tmp_path / "report.md").read_text()
