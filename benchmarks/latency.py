"""How long a single trace takes until it can be read in the store, when nothing else happens."""

from __future__ import annotations

import statistics
import time

from contestants import CONTESTANTS
from measured import NoWarnings, report
from stores import Place
from tables import between, number, table

SPANS = 5
WARM_UP = 3
NAMES = ("ours", "ours_native", "autolog")


def figures(bench):
    traces = bench.options.single_traces
    names = [name for name in bench.names(NAMES) if CONTESTANTS[name].keeps]
    rows = [row(name, bench.measured("latency.py", contestant=name, traces=traces)) for name in names]
    return {"traces": traces, "contestants": rows}


def row(name, seconds):
    return {
        "contestant": CONTESTANTS[name].title,
        "ms": [None if each is None else each * 1e3 for each in seconds],
        "stored": sum(each is not None for each in seconds),
        "executed": len(seconds),
    }


def tables(section):
    said = (
        f"{section['traces']} traces of {SPANS} spans, one after the other, in a process that does nothing else; from "
        "the end of the call until the SQLite store has the whole trace, read every 5 ms."
    )
    head = ("", "median, ms", "lowest to highest", "traces stored")
    return [said, "", *table(head, [cells(row) for row in section["contestants"]])]


def cells(row):
    known = [each for each in row["ms"] if each is not None]
    return (
        row["contestant"],
        number(statistics.median(known), 0) if known else "",
        between(known, 0) if known else "",
        f"{row['stored']:,} of {row['executed']:,}",
    )


def measure(contestant, traces, folder):
    from program import five_spans, warmed_up

    NoWarnings()
    store = CONTESTANTS[contestant].begin(Place(folder))
    program = warmed_up(five_spans(), WARM_UP, store)
    return [until_readable(store, program, WARM_UP + 1 + each) for each in range(traces)]


def until_readable(store, program, number):
    """Return the seconds from the end of a call until its trace, the store's *number*-th, is there."""
    time.sleep(0.3)  # idle
    program(question=f"question {number}")
    return store.wait(number, number * SPANS, time.perf_counter(), every_s=0.005).all_after_s


if __name__ == "__main__":
    report(measure)
