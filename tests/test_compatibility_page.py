"""docs/compatibility.md: the table is the matrix's, and has what pyproject.toml promises."""

from __future__ import annotations

import argparse
import re

import pytest
from docs_blocks import ROOT, Page

PAGE = Page("docs/compatibility.md")
ROWS = [tuple(row) for row in PAGE.rows("| Python |")]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PYTHONS = re.findall(r"Programming Language :: Python :: (3\.\d+)", PROJECT)
LOWEST = dict(re.findall(r'(?m)^    "(dspy|mlflow)>=([\d.]+)"', PROJECT))


@pytest.fixture
def matrix(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tests" / "matrix")
    import matrix

    return matrix


def test_the_page_is_the_matrixs(matrix):
    """The page is what the matrix writes of these rows."""
    skinny = re.search(r"not in the small one: (.*)\n", PAGE.text).group(1)
    assert matrix.page(ROWS, [], skinny) == PAGE.text


def test_every_python_is_there_on_both_ends():
    """Each Python that the project names was tried with the lowest and with newer versions, and all tests passed."""
    for python in PYTHONS:
        versions = {(dspy, mlflow) for found, dspy, mlflow, _, _ in ROWS if found.startswith(f"{python}.")}
        assert len(versions) > 1
        assert any(dspy == f"{LOWEST['dspy']}" and mlflow.startswith(LOWEST["mlflow"]) for dspy, mlflow in versions)
    assert [row for row in ROWS if not re.fullmatch(r"\d+ passed", row[-1])] == []


def test_the_cells_of_a_python(matrix):
    """The first Python has the lowest beside the newest too, the others only where they are asked for."""
    both = ["oldest", "newest"]
    asked = argparse.Namespace(dspy=both, mlflow=both, mixed=False)
    assert len(matrix.cells(PYTHONS[0], asked)) == 4
    assert [(cell.dspy, cell.mlflow) for cell in matrix.cells(PYTHONS[1], asked)] == [(each, each) for each in both]
    assert len(matrix.cells(PYTHONS[1], argparse.Namespace(dspy=both, mlflow=both, mixed=True))) == 4


def test_what_a_cell_installs(matrix):
    """The lowest versions are those that the whole suite runs on."""
    cell = matrix.Cell("3.12", "oldest", "newest")
    assert matrix.requirements(cell) == [f"dspy=={LOWEST['dspy']}", "mlflow"]


def test_an_interpreter_that_is_not_there_is_none(matrix):
    """A version that no machine has is not found."""
    assert matrix.interpreter("3.99") is None
