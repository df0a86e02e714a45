"""A release as it would be uploaded; the tests here run only where this folder is named: `make test-package`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from docs_blocks import ROOT
from named_folders import is_named

HERE = Path(__file__).parent


def pytest_ignore_collect(collection_path, config):
    """Leave this folder out where it is not named: its tests build the package and make an environment."""
    return None if is_named(HERE, config) else True


@pytest.fixture(scope="session")
def dist(tmp_path_factory):
    """Build the sdist, and the wheel from it; return their folder."""
    folder = tmp_path_factory.mktemp("dist")
    # The builder is in this environment already.
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="session")
def wheel(dist):
    """Return the wheel's path."""
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def user_python(wheel, tmp_path_factory):
    """Return the interpreter of a user's environment that has the wheel, and, by a path, what it depends on."""
    folder = tmp_path_factory.mktemp("user") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)],
        check=True,
        capture_output=True,
    )
    (site,) = folder.glob("lib/python*/site-packages")
    (ours,) = [path for path in sys.path if Path(path).name == "site-packages"]
    # After its own packages, so that the wheel's files are found before the ones that this environment has.
    (site / "dependencies.pth").write_text(ours)
    return python
