"""The documentation as a whole: each block of Python belongs to a test, each name that it lists is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from docs_blocks import ROOT, Page, blocks_that_run

import dspy_mlflow_callbacks
from dspy_mlflow_callbacks import testing

TESTS = Path(__file__).parent
PAGES = sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def texts_of(tree):
    """Return the texts in the tuples of a test's file, by which it finds blocks too."""
    tuples = [node.value for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple)]
    return [each.value for node in tuples for each in node.elts if isinstance(each, ast.Constant)]


def pages_of_tests():
    """Return, for each page, the texts by which tests find its blocks."""
    found = {}
    for path in TESTS.rglob("test_*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = [
            node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Page"
        ]
        for page in {call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant)}:
            found.setdefault(page, []).extend([*blocks_that_run(str(path)), *texts_of(tree)])
    return found


TESTED = pages_of_tests()


PACKAGE = Path(dspy_mlflow_callbacks.__file__).parent
ATTRIBUTE = r"(?:dspy|dspy_mlflow_callbacks)\.[a-z_]+(?:\.[a-z_]+)*"
# Texts of that form which are no attributes, tags or metadata: modules, a setting and a file.
NO_ATTRIBUTES = {
    "dspy.retrievers",
    "dspy.settings.callbacks",
    "dspy_mlflow_callbacks.export.process",
    "dspy_mlflow_callbacks.programs.model_loader",
    "dspy_mlflow_callbacks.pth",
}


def set_in_code():
    """Return the names that stand in the package's code, and the beginnings of those that it puts together."""
    nodes = [node for path in PACKAGE.rglob("*.py") for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    first = {
        node.values[0].value
        for node in nodes
        if isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.Constant)
    }
    return {text for text in texts if re.fullmatch(ATTRIBUTE, text)} - NO_ATTRIBUTES, tuple(
        text for text in first if re.fullmatch(ATTRIBUTE + r"\.", text)
    )


def test_the_page_on_spans_has_every_name():
    """Each attribute, tag and metadata by a name of ours that the code sets is on the page, and no other."""
    names, beginnings = set_in_code()
    said = set(re.findall(rf"`({ATTRIBUTE})`", Page("docs/spans.md").text))
    assert names - said == set()
    assert {name for name in said - names if not name.startswith(beginnings)} - NO_ATTRIBUTES == set()


@pytest.mark.parametrize("path", PAGES)
def test_each_block_of_python_belongs_to_a_test(path):
    """Each Python block of a page holds a text by which a test of that page finds and runs it."""
    texts = [text for text in TESTED.get(path, ()) if isinstance(text, str)]
    assert [block for block in Page(path).blocks() if not any(text in block for text in texts)] == []


def test_the_api_page_has_every_public_name():
    """The reference has each public name of the package once, and those of `testing` that are no constants."""
    listed = re.findall(r"(?m)^::: dspy_mlflow_callbacks\.(\S+)$", Page("docs/api.md").text)
    names = sorted(name.rpartition(".")[2] for name in listed if not name.startswith("testing."))
    assert names == sorted(dspy_mlflow_callbacks.__all__)
    of_tests = {name.removeprefix("testing.") for name in listed if name.startswith("testing.")}
    assert of_tests == {name for name in testing.__all__ if not name.isupper()}


def test_the_site_has_every_page():
    """Each page of docs/ stands in the site's navigation."""
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    named = re.findall(r"(?m)^ +- .*: (\S+\.md)$", navigation)
    assert sorted(named) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))
