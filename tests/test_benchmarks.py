"""The benchmarks run, whatever they measure on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
CALLS, WARM_UP = 3, 1
MEASURED = ("no_op", "ours")
OPTIONS = (f"--calls={CALLS}", f"--warm-up={WARM_UP}", "--rounds=1", "--batches=1", "--only", *MEASURED)


def test_a_run_gives_a_row_for_each_contestant(tmp_path, monkeypatch):
    """A run writes its figures and a table: a row for each contestant that is asked for, all its traces stored."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    from contestants import CONTESTANTS

    subprocess.run(
        [sys.executable, BENCHMARKS / "run.py", *OPTIONS, f"--results={tmp_path}", "--name=short"],
        check=True,
        capture_output=True,
    )

    figures = json.loads((tmp_path / "short.json").read_text())
    table = (tmp_path / "short.md").read_text().splitlines()
    measured = [CONTESTANTS[name] for name in MEASURED]
    executed = CALLS + WARM_UP
    assert [(row["contestant"], row["spans"], row["stored"], row["executed"]) for row in figures["contestants"]] == [
        (each.title, [5] if each.keeps else [], executed if each.keeps else None, executed) for each in measured
    ]
    assert [row["payload"] for row in figures["serialisation"]][:3] == ["1 kB, prose", "100 kB, prose", "10 MB, prose"]
    assert [line.split(" | ")[0].strip("| ") for line in table[4 : 4 + len(measured)]] == [
        each.title for each in measured
    ]
