"""What a release holds, and what a user's tools see of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
from docs_blocks import ROOT

PACKAGE = "dspy_mlflow_callbacks"
GIT = shutil.which("git")

# Each line that says `wrong` is one that a type checker must not accept.
PROGRAM = """\
from dspy_mlflow_callbacks import CallStart, MlflowCallback, RatioSampler, Stats, flush
from dspy_mlflow_callbacks.testing import capture_traces


def only_roots(call: CallStart) -> CallStart | None:
    return call if call.is_root else None


callback = MlflowCallback(sampling_ratio=0.1, middleware=[only_roots, RatioSampler(0.5)])
stats: Stats = callback.stats()
number: int = stats.lost
is_stored: bool = flush(1.0)
with capture_traces() as traces:
    names: list[str] = [span.name for span in traces.spans(kind="lm")]
text: str = callback.stats()  # wrong
number = callback.stats().no_such_count  # wrong
MlflowCallback(sampling_ratio="all")  # wrong
"""
WRONG = [number for number, line in enumerate(PROGRAM.splitlines(), 1) if line.endswith("# wrong")]


MOVED = f"{PACKAGE}/startup/{PACKAGE}.pth"  # to the root of the site folder


def tracked():
    """Return the package's files in the repository."""
    done = subprocess.run([GIT, "ls-files", PACKAGE], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_wheel_has_the_package_and_nothing_else(wheel):
    """The wheel holds the package's files, its metadata with license, and the file that the interpreter reads."""
    names = set(zipfile.ZipFile(wheel).namelist())
    (info,) = {name.partition("/")[0] for name in names if ".dist-info/" in name}
    about = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
    assert names == tracked() - {MOVED} | {f"{info}/{name}" for name in about} | {f"{PACKAGE}.pth"}


def test_the_sdist_has_what_the_wheel_is_built_from(dist):
    """The sdist holds the package, README, changelog and license, and no tests, benchmarks or pages."""
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    about = {"README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", "PKG-INFO", ".gitignore"}
    assert names == tracked() | about


def test_an_index_would_take_it(dist):
    """`twine check --strict` finds nothing wrong with either."""
    files = [str(path) for path in dist.iterdir()]
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == 2


def test_its_metadata_is_the_projects(wheel):
    """What an index shows says how to install, and its version is the one in pyproject.toml."""
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith("METADATA")]
    text = archive.read(name).decode()
    version = re.search(r'(?m)^version = "(.*)"', (ROOT / "pyproject.toml").read_text()).group(1)
    assert f"\nVersion: {version}\n" in text
    assert "Typing :: Typed" in text
    assert "pip install dspy-mlflow-callbacks" in text


def test_it_runs_where_it_is_installed(user_python, tmp_path):
    """In a user's environment the wheel's files are the ones that run, and the command is there."""
    code = f"import {PACKAGE}; print({PACKAGE}.__file__); from {PACKAGE} import MlflowCallback; print(MlflowCallback())"
    done = subprocess.run(
        [str(user_python), "-c", code], cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", check=True
    )
    place, callback = done.stdout.splitlines()
    assert place.startswith(str(user_python.parent.parent))
    assert callback == "MlflowCallback()"
    command = [str(user_python.with_name("dspy-mlflow")), "--help"]
    assert "doctor" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def program(tmp_path):
    """Write a user's program, and return its path."""
    path = tmp_path / "app.py"
    path.write_text(PROGRAM)
    return path


def test_mypy_sees_the_types(user_python, program):
    """mypy, in strict mode, takes what is right and refuses what is wrong."""
    # What MLflow stands on takes mypy a minute, and says nothing of this package.
    (program.parent / "mypy.ini").write_text("[mypy]\n[mypy-mlflow.*]\nfollow_imports = skip\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(user_python), "--no-incremental"]
    done = subprocess.run([*command, "app.py"], cwd=program.parent, capture_output=True, text=True, check=False)
    found = re.findall(r"(?m)^app\.py:(\d+): error: ", done.stdout)
    assert sorted({int(line) for line in found}) == WRONG, done.stdout
    assert "py.typed" not in done.stdout


def test_pyright_sees_the_types(user_python, program):
    """pyright, in strict mode, takes what is right and refuses what is wrong."""
    (program.parent / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "strict"}))
    command = [sys.executable, "-m", "basedpyright", "--pythonpath", str(user_python), "--outputjson", "app.py"]
    done = subprocess.run(command, cwd=program.parent, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)["generalDiagnostics"]
    errors = {each["range"]["start"]["line"] + 1 for each in found if each["severity"] == "error"}
    assert sorted(errors) == WRONG, done.stdout
