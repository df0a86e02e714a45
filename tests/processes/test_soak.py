"""The soak of benchmarks/soak.py in its short mode: it runs, and all calls are accounted for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


def test_a_short_soak():
    """A load of some seconds through the faulty proxy: every call is a stored trace or counted as lost."""
    command = [sys.executable, SOAK, "--short", "--calls=200", "--threads=8", "--seconds=60", "--flush=100"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    cells = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()]
    rows = dict(row for row in cells if len(row) == 2)
    assert (rows["calls executed"], rows["counted as lost"]) == ("200", "0")
    assert rows["traces stored"] == "200"
