"""CONTRIBUTING.md: the commands are there, and its test passes."""

from __future__ import annotations

import re

from docs_blocks import ROOT, Page

PAGE = Page("CONTRIBUTING.md")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def targets():
    """Return the targets that the page names."""
    return {name for command in re.findall(r"`make ([^`]+)`", PAGE.text) for name in command.split()}


def test_each_target_is_there():
    """What the page says to make, the Makefile makes."""
    rules = MAKEFILE.replace("$(VENV)", ".venv")
    assert {name for name in targets() if not re.search(rf"(?m)^{re.escape(name)}:", rules)} == set()


def test_ci_runs_what_must_hold():
    """`.ci/run` runs every suite of the page but those that the Makefile says are run by hand."""
    in_ci = set(re.findall(r"(?m)^make (\S+)$", (ROOT / ".ci" / "run").read_text(encoding="utf-8")))
    by_hand = {".venv/.dev", "format", "docs", "fuzz", "bench", "test-matrix", "test-dashboard"}
    assert targets() - in_ci == by_hand


def test_there_are_five_commands():
    """The page promises five commands, and has five rows."""
    assert len(PAGE.rows("| command |")) == 5


def test_the_example_of_a_test_passes(dspy_traces):
    """The page's test passes here."""
    PAGE.run("def test_a_program_asks")["test_a_program_asks_its_model_once"](dspy_traces)


def test_files_that_it_names_are_there():
    """Each file and folder that the page names is there."""
    named = re.findall(r"`((?:tests|docs|\.ci)/[\w./]+)`", PAGE.text)
    assert [name for name in named if not (ROOT / name.partition("::")[0]).exists()] == []
