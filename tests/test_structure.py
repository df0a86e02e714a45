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
    "events": set(),
    "stats": set(),
    "dspy_internals": set(),
    "lm_internals": {"dspy_internals"},
    "background": set(),
    "checks": set(),
    "secrets": set(),
    "mlflow_internals": {"background"},
    "middleware": {"events", "checks", "stats"},
    "scoped": set(),
    "scopes": {"events", "scoped", "mlflow_internals", "middleware"},
    "tail_sampling": {"checks"},
    "config": {"events", "stats", "checks", "middleware", "payload", "tail_sampling", "export"},
    "payload": {"checks", "secrets"},
    "describe": {"events", "secrets"},
    "export": {"stats", "background", "mlflow_internals"},
    "spans": {"events", "stats", "background", "mlflow_internals", "payload", "tail_sampling", "export"},
    "losses": {"stats", "middleware", "payload", "tail_sampling", "spans"},
    "flushing": {"export"},
    "peers": {"stats", "mlflow_internals"},
    "tracing": {"events", "stats", "dspy_internals", "lm_internals", "middleware", "describe", "spans", "export"},
    "callbacks": {
        "events",
        "stats",
        "dspy_internals",
        "lm_internals",
        "mlflow_internals",
        "middleware",
        "payload",
        "describe",
        "config",
        "checks",
        "spans",
        "export",
        "losses",
        "flushing",
        "tracing",
        "peers",
    },
    "distributed": {
        "events",
        "stats",
        "scoped",
        "dspy_internals",
        "mlflow_internals",
        "middleware",
        "payload",
        "config",
        "spans",
        "export",
        "flushing",
        "callbacks",
    },
    "runs": {"stats", "dspy_internals", "mlflow_internals", "payload", "describe", "spans"},
    "autologging": {"stats", "dspy_internals", "middleware", "payload", "config", "callbacks", "runs"},
    "autostart": {"autologging"},
    "startup": {"autostart"},
    "markdown": set(),
    "compare": {"stats", "markdown"},
    "cli": {"stats", "config", "autostart", "compare", "replaying"},
    "__main__": {"cli"},
    "programs": {"stats", "secrets", "config", "scopes", "describe", "dspy_internals", "callbacks"},
    "replaying": {
        "events",
        "stats",
        "markdown",
        "dspy_internals",
        "mlflow_internals",
        "secrets",
        "scopes",
        "config",
        "describe",
        "spans",
        "flushing",
        "callbacks",
    },
    "testing": {"events", "config", "dspy_internals", "mlflow_internals", "callbacks"},
}
DSPY_ROOMS = {
    "cli",
    "dspy_internals",
    "lm_internals",
    "describe",
    "callbacks",
    "programs",
    "runs",
    "replaying",
    "testing",
}
MLFLOW_ROOMS = {
    "cli",
    "compare",
    "mlflow_internals",
    "spans",
    "export",
    "flushing",
    "runs",
    "programs",
    "replaying",
    "testing",
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
