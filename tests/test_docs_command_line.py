"""docs/command_line.md and docs/report.md: what they say is so, and their blocks run as they stand."""

from __future__ import annotations

import re
import shlex
from types import SimpleNamespace

import click
import dspy
import mlflow
import pytest
from docs_blocks import Page, blocks_that_run
from offline_lm import OfflineLM
from programs import Echo, Program

from dspy_mlflow_callbacks import MlflowCallback, TraceReport, flush
from dspy_mlflow_callbacks.cli.commands import commands

pytestmark = pytest.mark.usefixtures("own_folder")

PAGE = Page("docs/command_line.md")
REPORT = Page("docs/report.md")


@pytest.fixture
def traced(dspy_traces):
    """Return the id of a trace in an experiment that is called as the pages call it."""
    if mlflow.get_experiment_by_name("questions") is None:
        mlflow.create_experiment("questions")
    callback = MlflowCallback(experiment="questions", tags={"team": "search"})
    with dspy.context(lm=OfflineLM(), callbacks=[callback]):
        Program()(question="why?")
    flush()
    return mlflow.get_last_active_trace_id()


@pytest.fixture
def run_block(run_cli):
    """Return what runs the commands of a block, and returns what they print."""

    def run_block(script, **replaced):
        printed = []
        for line in script.splitlines():
            command, *arguments = shlex.split(line)
            assert command == "dspy-mlflow"
            status, output, errors = run_cli(*(replaced.get(each, each) for each in arguments))
            assert (status, errors.count("Traceback")) == (0, 0)
            printed.append(output)
        return "".join(printed)

    return run_block


def test_each_block_is_run():
    """No code block of the pages is left out of these tests."""
    pages = (PAGE, REPORT)
    blocks = [block for page in pages for language in ("python", "console", "text") for block in page.blocks(language)]
    texts = blocks_that_run(__file__)
    assert [block for block in blocks if not any(text in block for text in texts)] == []


def test_each_command_is_listed():
    """The table has each command, in the order of `--help`, and all have `--json` but those that the page names."""
    names = [name.strip("` ") for row in PAGE.rows("| command |") for name in row[0].split(",")]
    context = click.Context(commands)
    assert names == commands.list_commands(context)
    without = set()
    for name in names:
        command = commands.get_command(context, name)
        parts = command.commands.values() if isinstance(command, click.Group) else [command]
        if not all("--json" in option.opts for part in parts for option in part.params if option.name == "as_json"):
            without.add(name)
        if not any("--json" in option.opts for part in parts for option in part.params):
            without.add(name)
    assert without == {"run", "completion"}


def test_the_demo_prints_its_tree(run_block):
    """The tree is the page's, but for what it says of each span."""
    printed = run_block(PAGE.script("dspy-mlflow demo"))
    lines = [re.sub(r"  \d.*", "", line) for line in printed.splitlines()[1:]]
    shown = PAGE.block("Demo.research.react", "text").splitlines()
    assert lines[: len(shown)] == shown


def test_traces_are_listed(traced, run_block):
    """The block prints the head that the page shows."""
    printed = run_block(PAGE.script("dspy-mlflow list"), error="ok")
    assert printed.splitlines()[0] + "\n" == PAGE.block("errors", "text")
    assert traced in printed


def test_traces_are_followed(traced, run_block, monkeypatch):
    """The block prints what is stored meanwhile, until it is interrupted."""

    def sleep(seconds):
        if not called:
            called.append(True)
            with dspy.context(callbacks=[MlflowCallback(experiment="questions")]):
                Echo()()
            flush()
            return
        raise KeyboardInterrupt

    called = []
    monkeypatch.setattr(
        "dspy_mlflow_callbacks.cli.tailing.time", SimpleNamespace(sleep=sleep)
    )  # other threads sleep too
    assert " Echo " in run_block(PAGE.script("dspy-mlflow tail"))


def test_a_trace_is_shown(traced, run_block):
    """The block prints its tree and prompts."""
    assert "[answer]" in run_block(PAGE.script("dspy-mlflow show"), TRACE=traced)


def test_traces_are_moved(traced, run_block):
    """The block writes a file and stores its traces elsewhere."""
    assert re.search(r"^\d+ traces stored, 0 were there already", run_block(PAGE.script("dspy-mlflow export")))


def test_completion_is_printed(run_cli):
    """The commands are those that print scripts."""
    script = PAGE.script("dspy-mlflow completion fish")
    for shell in re.findall(r"dspy-mlflow completion (\w+)", script):
        assert run_cli("completion", shell)[0] == 0


def test_a_report_is_written(traced, run_block):
    """The block writes the page."""
    assert run_block(REPORT.script("dspy-mlflow report")) == "Written to report.html.\n"


def test_a_report_is_made_in_code(traced, capsys):
    """The block writes the page and prints how many calls there were."""
    made = REPORT.run("trace_report", callback=MlflowCallback())["made"]
    assert isinstance(made, TraceReport)
    assert int(capsys.readouterr().out) == made.to_dict()["all"]["calls"] > 0
