"""The engines' examples run as a user runs them, and print one trace with what all workers did."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.timeout(280)
@pytest.mark.parametrize("name", ["ray", "dask", "celery", "spark"])
def test_an_example_prints_one_trace(name, tmp_path):
    """Four questions to two workers are one trace of 21 spans."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MLFLOW_TRACKING_URI", "PYTHONPATH")
    }
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"on_{name}.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env={**environment, "RAY_USAGE_STATS_ENABLED": "0"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "['yes', 'yes', 'yes', 'yes']" in done.stdout
    assert done.stdout.count("Survey  ") == 1
    assert "21 spans, OK" in done.stdout
