"""The shape of the package: imports point one way, neighbours have known doors, every test says what it shows."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dspy_mlflow_callbacks

TESTS = Path(__file__).parent
PACKAGE = Path(dspy_mlflow_callbacks.__file__).parent

# Who may import whom: each room only those that stand before it, and itself.
MAY_IMPORT = {
    "forks": set(),
    "events": set(),
    "stats": {"forks"},
    "dspy_internals": {"forks"},
    "lm_internals": {"dspy_internals"},
    "background": {"forks"},
    "checks": set(),
    "secrets": set(),
    "mlflow_internals": {"background", "forks"},
    "middleware": {"checks", "events", "forks", "stats"},
    "scoped": set(),
    "scopes": {"events", "middleware", "mlflow_internals", "scoped"},
    "tail_sampling": {"checks"},
    "export": {"background", "forks", "mlflow_internals", "stats"},
    "payload": {"checks", "secrets"},
    "config": {"checks", "events", "export", "middleware", "payload", "stats", "tail_sampling"},
    "describe": {"events", "secrets"},
    "spans": {"background", "events", "export", "forks", "mlflow_internals", "payload", "stats", "tail_sampling"},
    "losses": {"middleware", "payload", "spans", "stats", "tail_sampling"},
    "flushing": {"checks", "export"},
    "spooled": {"export", "mlflow_internals"},
    "peers": {"mlflow_internals", "stats"},
    "optimizing": {"describe", "events"},
    "summaries": {"describe", "dspy_internals", "events", "lm_internals", "optimizing", "spans"},
    "ends": {"describe", "events", "middleware", "spans", "stats", "summaries"},
    "attempts": {"events", "optimizing"},
    "starts": {"attempts", "describe", "dspy_internals", "events", "lm_internals", "optimizing", "spans"},
    "tracing": {
        "describe",
        "dspy_internals",
        "ends",
        "events",
        "export",
        "forks",
        "lm_internals",
        "middleware",
        "optimizing",
        "spans",
        "starts",
        "stats",
        "summaries",
    },
    "evaluating": {"describe", "dspy_internals", "events", "optimizing", "spans", "tracing"},
    "metrics": {"forks", "export", "spans", "stats"},
    "callbacks": {
        "checks",
        "config",
        "describe",
        "dspy_internals",
        "evaluating",
        "events",
        "export",
        "flushing",
        "lm_internals",
        "losses",
        "metrics",
        "middleware",
        "mlflow_internals",
        "payload",
        "peers",
        "spans",
        "stats",
        "tracing",
    },
    "distributed": {
        "callbacks",
        "config",
        "dspy_internals",
        "events",
        "export",
        "flushing",
        "middleware",
        "mlflow_internals",
        "payload",
        "scoped",
        "spans",
        "stats",
    },
    "executor": {
        "attempts",
        "checks",
        "describe",
        "distributed",
        "dspy_internals",
        "events",
        "flushing",
        "mlflow_internals",
        "stats",
    },
    "runs": {"describe", "dspy_internals", "forks", "mlflow_internals", "payload", "spans", "stats"},
    "autologging": {"callbacks", "config", "dspy_internals", "forks", "middleware", "payload", "runs", "stats"},
    "autostart": {"autologging"},
    "startup": {"autostart"},
    "printable": set(),
    "markdown": {"printable"},
    "compare": {"checks", "markdown", "printable", "stats"},
    "health": {
        "export",
        "autostart",
        "background",
        "callbacks",
        "compare",
        "config",
        "dspy_internals",
        "mlflow_internals",
        "peers",
        "spans",
        "stats",
    },
    "replaying": {
        "callbacks",
        "checks",
        "config",
        "describe",
        "dspy_internals",
        "events",
        "flushing",
        "markdown",
        "mlflow_internals",
        "scopes",
        "secrets",
        "spans",
        "spooled",
        "stats",
    },
    "demonstration": {"callbacks", "flushing"},
    "stored": {"compare", "export", "mlflow_internals", "trace_text"},
    "cli": {
        "autostart",
        "compare",
        "config",
        "demonstration",
        "export",
        "health",
        "printable",
        "replaying",
        "report",
        "stats",
        "stored",
        "trace_text",
    },
    "__main__": {"cli"},
    "programs": {"callbacks", "config", "describe", "dspy_internals", "scopes", "secrets", "stats"},
    "trace_text": {"printable"},
    "testing": {
        "callbacks",
        "checks",
        "config",
        "dspy_internals",
        "events",
        "mlflow_internals",
        "replaying",
        "trace_text",
    },
    "report": {"compare", "mlflow_internals", "printable", "stats", "stored"},
}
DSPY_ROOMS = {
    "callbacks",
    "cli",
    "demonstration",
    "describe",
    "dspy_internals",
    "executor",
    "health",
    "lm_internals",
    "optimizing",
    "programs",
    "replaying",
    "runs",
    "testing",
}
MLFLOW_ROOMS = {
    "cli",
    "compare",
    "executor",
    "demonstration",
    "export",
    "flushing",
    "health",
    "mlflow_internals",
    "programs",
    "replaying",
    "report",
    "runs",
    "spans",
    "spooled",
    "stored",
    "testing",
    "trace_text",
}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    """A room imports only the rooms below it; DSPy and MLflow come in through the rooms named for it."""
    imported = imports_of(path)
    ours = {name.split(".")[1] for name in imported if name.startswith("dspy_mlflow_callbacks.")}
    assert ours - {room_of(path)} <= MAY_IMPORT[room_of(path)]
    for neighbour, rooms in (("dspy", DSPY_ROOMS), ("mlflow", MLFLOW_ROOMS)):
        used = any(name == neighbour or name.startswith(f"{neighbour}.") for name in imported)
        assert not used or room_of(path) in rooms, f"{neighbour} in {path}"


def test_importing_the_package_is_cheap():
    """`import dspy_mlflow_callbacks` and its version bring in neither dspy nor mlflow; an unknown name is refused."""
    code = """
import sys, dspy_mlflow_callbacks as package
assert package.__version__ and sorted(package.__all__) == package.__all__
assert set(package.__all__) < set(dir(package))
assert not {"dspy", "mlflow"} & set(sys.modules), sys.modules
try:
    package.Nothing
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "module 'dspy_mlflow_callbacks' has no attribute 'Nothing'\n"


@pytest.mark.parametrize("name", dspy_mlflow_callbacks.__all__)
def test_public_names_have_docstrings(name):
    """Every public name can be imported from the package and says what it is for."""
    assert getattr(dspy_mlflow_callbacks, name).__doc__


@pytest.mark.parametrize("path", sorted(TESTS.rglob("test_*.py")), ids=lambda path: path.stem)
def test_each_test_says_what_it_shows(path):
    """Each test has a docstring, so that all of them together read as the specification."""
    tests = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_")
    ]
    assert [test.name for test in tests if not ast.get_docstring(test)] == []


@pytest.mark.parametrize("room", ["cli", "config"])
def test_the_command_and_the_options_are_cheap_to_import(room):
    """`dspy-mlflow --help` and the options bring in neither dspy nor mlflow, which take seconds."""
    code = (
        f"import sys, dspy_mlflow_callbacks.{room}; print([name for name in ('dspy', 'mlflow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
