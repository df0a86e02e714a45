"""What a release says of itself: one version, in one place, with its section in the changelog."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

from docs_blocks import ROOT, Page

import dspy_mlflow_callbacks

PACKAGE = Path(dspy_mlflow_callbacks.__file__).parent
VERSION = re.search(r'(?m)^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8")).group(1)


def test_the_version_is_in_one_place():
    """pyproject.toml says the version, the package reads it from there, and no file of the package has it."""
    assert version("dspy-mlflow-callbacks") == dspy_mlflow_callbacks.__version__ == VERSION
    texts = {path.name: path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    assert [name for name, text in texts.items() if VERSION in text] == []


def test_the_changelog_has_the_version():
    """The changelog has a section for the version that is being made, below what is not released."""
    sections = re.findall(r"(?m)^## (.*)$", Page("CHANGELOG.md").text)
    base = re.match(r"[\d.]*\d", VERSION).group()
    assert sections[:2] == ["Unreleased", base]


def test_the_changelogs_headings_are_the_known_ones():
    """Changes stand under the headings of Keep a Changelog, each once in a version."""
    known = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
    for section in re.split(r"(?m)^## ", Page("CHANGELOG.md").text)[1:]:
        headings = re.findall(r"(?m)^### (.*)$", section)
        assert headings == [name for name in known if name in headings]
