"""The benchmarks run, whatever they measure on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a part in tiny numbers; returns its section of the figures, and the first cells of its tables' rows."""
    monkeypatch.syspath_prepend(BENCHMARKS)

    def run(part, *options):
        command = [sys.executable, BENCHMARKS / "run.py", part, *options, f"--results={tmp_path}", "--name=short"]
        subprocess.run([*command, "--rounds=1"], check=True, capture_output=True)
        return json.loads((tmp_path / "short.json").read_text())[part], first_cells((tmp_path / "short.md").read_text())

    return run


def first_cells(page):
    return [line.split(" | ")[0].strip("| ") for line in page.splitlines() if line.startswith("| ")]


def titles(*names):
    from contestants import CONTESTANTS

    return [CONTESTANTS[name].title for name in names]


def test_calls(run):
    """A run writes its figures and a table: a row for each contestant that is asked for, all its traces stored."""
    section, rows = run("calls", "--calls=3", "--warm-up=1", "--only", "no_op", "ours")
    no_op, ours = titles("no_op", "ours")
    assert [(row["contestant"], row["spans"], row["stored"], row["executed"]) for row in section["contestants"]] == [
        (no_op, [], None, 4),
        (ours, [5], 4, 4),
    ]
    assert rows == ["", "---", no_op, ours]


def test_imports(run):
    """What is imported has a row each, after what it is compared with."""
    section, rows = run("imports")
    assert rows[:4] == ["", "---", "dspy and mlflow", "this package"]
    assert {len(seconds) for seconds in section["seconds"].values()} == {1}


def test_parts(run):
    """Each part of the way has a row in its table."""
    section, rows = run("parts", "--batches=1")
    assert [row["payload"] for row in section["serialisation"]][:3] == ["1 kB, prose", "100 kB, prose", "10 MB, prose"]
    assert rows[1:3] == ["---", "1 kB, prose"]
    assert rows[-1] == "`LevelFilter`"


def test_load(run):
    """Threads and tasks have a table each, with all traces stored whole."""
    section, rows = run("load", "--load-calls=4", "--threads=2", "--tasks=3", "--only", "none", "ours")
    none, ours = titles("none", "ours")
    assert [
        [(row["contestant"], row["spans"], row["stored"], row["executed"]) for row in load["contestants"]]
        for load in section["loads"]
    ] == [[(none, [], None, 6), (ours, [5], 6, 6)], [(none, [], None, 7), (ours, [5], 7, 7)]]
    assert rows == ["2 threads, an LM of 100 ms", "---", none, ours, "3 tasks, an LM of 200 ms", "---", none, ours]


@pytest.mark.timeout(300)  # a server takes its time to start
def test_server(run):
    """A burst against a real server has a row for each contestant, with all traces stored whole."""
    section, rows = run("server", "--server-traces=2", "--only", "no_op", "ours")
    no_op, ours = titles("no_op", "ours")
    assert [(row["contestant"], row["spans"], row["stored"], row["executed"]) for row in section["contestants"]] == [
        (no_op, [], None, 12),
        (ours, [10], 12, 12),
    ]
    assert rows == ["", "---", no_op, ours]


def test_memory(run):
    """Memory has a table for many calls and one for a buffer that the store does not empty."""
    section, rows = run("memory", "--memory-calls=20", "--full-mb=1", "--only", "ours")
    (ours,) = titles("ours")
    assert [(row["contestant"], row["calls"], row["stored"]) for row in section["growth"]] == [(ours, 20, 20)]
    assert [(row["contestant"], row["executed"], row["stored"] + row["dropped"]) for row in section["full"]] == [
        (ours, 35, 35)
    ]
    assert rows == ["", "---", ours, "", "---", ours]


def test_scaling(run):
    """Spans and payloads have a table each, with a figure for each size."""
    section, rows = run("scaling", "--max-spans=10", "--max-kb=10", "--only", "no_op", "ours")
    no_op, ours = titles("no_op", "ours")
    assert (section["spans"], section["payloads_kb"]) == ([1, 10], [1, 10])
    assert [(len(row["spans_cpu_us"]), len(row["payloads_cpu_us"])) for row in section["contestants"]] == [(2, 2)] * 2
    assert rows == ["", "---", no_op, ours, "", "---", no_op, ours]


def test_latency(run):
    """Until a trace can be read: a row for each contestant, with a time for each trace."""
    section, rows = run("latency", "--single-traces=2", "--only", "ours")
    (ours,) = titles("ours")
    assert [(row["contestant"], row["stored"], len(row["ms"])) for row in section["contestants"]] == [(ours, 2, 2)]
    assert rows == ["", "---", ours]


def test_compare(run):
    """A comparison with intervals and one without have a row each, with all traces matched."""
    section, rows = run("compare", "--compare-traces=3")
    assert [(row["resamples"], row["matched"]) for row in section["rows"]] == [(0, 3), (2_000, 3)]
    assert rows == ["resamples", "---", "0", "2,000"]


def test_evaluate(run):
    """An evaluation has a row for each contestant, with the traces and the scores that are stored of it."""
    section, rows = run("evaluate", "--examples=3", "--eval-threads=2", "--only", "no_op", "ours", "ours_nested")
    no_op, ours, nested = titles("no_op", "ours", "ours_nested")
    assert [(row["contestant"], row["traces"], row["scored"], row["score"]) for row in section["contestants"]] == [
        (no_op, None, None, [100.0]),
        (ours, 4, 3, [100.0]),
        (nested, 1, 3, [100.0]),
    ]
    assert rows == ["", "---", no_op, ours, nested]


def test_spool(run):
    """Writing to the spool has a row for each way to do it, with and without waiting for the disk."""
    section, rows = run("spool", "--batches=1")
    ways = ["one at a time", "in batches of 100, as when a store is away"]
    assert [row["form"] for row in section["rows"]][:2] == ways
    assert len(rows) == 2 + len(section["rows"]) == 8


def test_a_run_of_one_part_leaves_the_others(tmp_path, run):
    """What a run measures takes the place of the part's older figures, and of no other part's."""
    (tmp_path / "short.json").write_text(json.dumps({"parts": OLDER, "load": OLDER}))
    section, rows = run("parts", "--batches=1")
    assert section != OLDER
    assert json.loads((tmp_path / "short.json").read_text())["load"] == OLDER
    assert rows.count("older") == 1


OLDER = {"page": ["| older | row |", ""]}


def test_many(run):
    """A program over many inputs has a row for each way to call it, with all spans stored."""
    section, rows = run("many", "--inputs=3", "--input-threads=2")
    ways = ["`ThreadPoolExecutor.map`", "`run`", '`run(trace="one")`']
    assert [(row["way"], row["spans"]) for row in section["ways"]] == list(zip(ways, (15, 15, 16), strict=True))
    assert rows == ["", "---", *ways]
