"""What it takes to compare two versions of a program by many traces."""

from __future__ import annotations

import time

from measured import report, resident_bytes
from stores import Place
from tables import number, table

MB = 1e6


def figures(bench):
    traces = bench.options.compare_traces
    rows = [bench.measured("compare.py", traces=traces, resamples=resamples) for resamples in (0, 2_000)]
    return {"traces": traces, "rows": rows}


def tables(section):
    said = (
        f"{section['traces']:,} traces a side, five spans each, in a SQLite store; `compare_versions` by a tag, in a "
        "process that has just started. Memory is the most that the process has held, MLflow and SciPy included."
    )
    head = ("resamples", "matched", "seconds", "of it CPU", "traces a second", "memory, MB", "grown by, MB")
    return [said, "", *table(head, [cells(section["traces"], row) for row in section["rows"]])]


def cells(traces, row):
    return (
        number(row["resamples"], 0),
        number(row["matched"], 0),
        number(row["seconds"], 1),
        number(row["cpu_s"], 1),
        number(2 * traces / row["seconds"], 0),
        number(row["highest_bytes"] / MB, 0),
        number((row["highest_bytes"] - row["before_bytes"]) / MB, 0),
    )


def measure(traces, resamples, folder):
    """Fill a store, or take the one that is there, and compare in a process whose memory has nothing of it."""
    import json
    import os
    import subprocess
    import sys
    from pathlib import Path

    known = Path(folder, "compared.json")
    if not known.exists():
        known.write_text(json.dumps(fill(traces, folder)))
    settings = {**json.loads(known.read_text()), "resamples": resamples}
    done = subprocess.run(
        [sys.executable, __file__, json.dumps({"compare": settings})],
        check=True,
        stdout=subprocess.PIPE,
        env=os.environ,
    )
    return {"resamples": resamples, **json.loads(done.stdout.splitlines()[-1])}


def fill(traces, folder):
    """Store the traces of two versions, as this package stores them; return where."""
    import dspy
    import mlflow
    from program import five_spans, warmed_up

    from dspy_mlflow_callbacks import MlflowCallback, flush

    store = Place(folder).new_store()
    program = warmed_up(five_spans(), 3, store)
    for version in ("v1", "v2"):
        with dspy.context(callbacks=[MlflowCallback(tags={"version": version}, max_block_s=600, on_full="block")]):
            for each in range(traces):
                program(question=f"question {each}")
        flush()
    return {"uri": mlflow.get_tracking_uri(), "experiment": store.experiment_id}


def compared(uri, experiment, resamples):
    import mlflow

    from dspy_mlflow_callbacks import compare_versions

    mlflow.set_tracking_uri(uri)
    before, begun, cpu = resident_bytes(), time.perf_counter(), time.process_time()
    comparison = compare_versions("v1", "v2", by="tag:version", experiments=[experiment], resamples=resamples)
    return {
        "matched": comparison.matched,
        "seconds": time.perf_counter() - begun,
        "cpu_s": time.process_time() - cpu,
        "before_bytes": before,
        "highest_bytes": highest_bytes(),
    }


def highest_bytes():
    """Return the most that this process has held in memory."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run(compare=None, **settings):
    return measure(**settings) if compare is None else compared(**compare)


if __name__ == "__main__":
    report(run)
