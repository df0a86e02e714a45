"""What tracing holds in memory: after many calls, and while the store takes nothing."""

from __future__ import annotations

import gc
import sqlite3
import time
from contextlib import closing

from contestants import CONTESTANTS, NO_OP
from measured import NoWarnings, report, resident_bytes
from stores import Place
from tables import number, table

MB = 1e6
FIRST = 1_000  # calls after which memory is compared
STEP = 1_000  # calls between two samples
PAYLOAD_BYTES = 100_000
OVERFILLED = 1.5  # times the limit
NAMES = (NO_OP, "ours")


def figures(bench):
    options, names = bench.options, bench.names(NAMES)
    seconds = (options.seconds or 100) / len(names)
    growing = {"calls": options.memory_calls, "at_most_s": seconds}
    filling = {"limit_bytes": int(options.full_mb * MB)}
    full = [name for name in names if CONTESTANTS[name].keeps]
    return {
        **filling,
        "calls": options.memory_calls,
        "growth": [section(bench, name, "growth", growing) for name in names],
        "full": [section(bench, name, "full", filling) for name in full],
    }


def section(bench, name, what, settings):
    found = bench.measured("memory.py", contestant=name, what=what, settings=settings)
    return {"contestant": CONTESTANTS[name].title, **found}


def tables(section):
    growth = (
        f"Calls of a module that does nothing, one span each, to a SQLite store. {section['calls']:,} are asked for, "
        "and as many made as there is time for, with a flush every "
        f"{STEP:,}. Memory is what the process holds, after a flush at the first and last figure, before each for the "
        "highest."
    )
    full = (
        f"Traces of {PAYLOAD_BYTES / 1e3:.0f} kB, {OVERFILLED:.0%} of the limit of the buffer, while another "
        "connection has the SQLite store locked; then the lock is taken away. Without a limit it is filled as far."
    )
    first = f"after {FIRST:,} calls, MB"
    growth_head = ("", "calls", first, "after all, MB", "growth, MB", "highest before a flush, MB", "stored")
    full_head = ("", "limit, MB", "grown by, MB", "`stats().bytes`, MB", "of the limit", "dropped", "stored at last")
    return [
        growth,
        "",
        *table(growth_head, [growth_cells(row) for row in section["growth"]]),
        "",
        full,
        "",
        *table(full_head, [full_cells(row) for row in section["full"]]),
    ]


def growth_cells(row):
    return (
        row["contestant"],
        number(row["calls"], 0),
        megabytes(row["first_bytes"]),
        megabytes(row["last_bytes"]),
        megabytes(row["last_bytes"] - row["first_bytes"]),
        megabytes(max(held for _, held in row["samples"])),
        number(row["stored"], 0),
    )


def full_cells(row):
    limit = row["limit_bytes"]
    return (
        row["contestant"],
        megabytes(limit) or "none",
        megabytes(row["grown_bytes"]),
        megabytes(row["queued_bytes"]),
        f"{row['grown_bytes'] / limit:.0%}" if limit else "",
        number(row["dropped"], 0),
        f"{row['stored']:,} of {row['executed']:,}",
    )


def megabytes(size):
    return number(None if size is None else size / MB, 1)


def measure(contestant, what, settings, folder):
    return {"growth": measure_growth, "full": measure_full}[what](contestant, Place(folder), **settings)


def measure_growth(contestant, place, calls, at_most_s):
    from program import Echo

    NoWarnings()
    store = CONTESTANTS[contestant].begin(place)
    program, samples = Echo(), []
    call(program, min(FIRST, calls))
    first = settled_bytes(store)
    done, begun = min(FIRST, calls), time.monotonic()
    samples.append((done, first))
    while done < calls and time.monotonic() - begun < at_most_s:
        call(program, min(STEP, calls - done))
        done += min(STEP, calls - done)
        samples.append((done, resident_bytes()))
        store.flush()  # what waits is the other table's: here it is what stays
    return {
        "calls": done,
        "first_bytes": first,
        "last_bytes": settled_bytes(store),
        "samples": samples,
        "stored": len(store.spans_by_trace()),
    }


def call(program, calls):
    for _ in range(calls):
        program(text="a short text")


def settled_bytes(store):
    store.flush()
    gc.collect()
    return resident_bytes()


def measure_full(contestant, place, limit_bytes):
    """Fill the buffer past its limit; what has no limit is filled as far all the same."""
    import dspy
    from program import Echo

    from dspy_mlflow_callbacks import MlflowCallback

    store = CONTESTANTS[contestant].begin(place)
    limited = contestant == "ours"
    if limited:
        dspy.configure(callbacks=[MlflowCallback(max_queue_bytes=limit_bytes, on_full="drop")])
    program, warm_up = Echo(), 20
    call(program, warm_up)
    store.flush()
    gc.collect()
    before, executed = resident_bytes(), int(OVERFILLED * limit_bytes / PAYLOAD_BYTES)
    with closing(sqlite3.connect(store.database, isolation_level=None, timeout=60)) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        for each in range(executed):
            program(text=f"{each} ".ljust(PAYLOAD_BYTES, "x"))
        gc.collect()
        held = resident_bytes() - before
        stats = statistics_of(dspy.settings.callbacks)
        lock.execute("ROLLBACK")
    total = warm_up + executed
    store.wait(total - stats["dropped"], total - stats["dropped"], time.perf_counter(), at_most_s=30)
    return {
        "limit_bytes": limit_bytes if limited else None,
        "grown_bytes": held,
        "queued_bytes": stats["bytes"],
        "dropped": stats["dropped"],
        "executed": total,
        "stored": len(store.spans_by_trace()),
    }


def statistics_of(callbacks):
    """Return how many bytes wait, if the callbacks say so, and how many traces were dropped."""
    stats = [each.stats() for each in callbacks if hasattr(each, "stats")]
    return {
        "bytes": next((each.bytes for each in stats if hasattr(each, "bytes")), None),
        "dropped": sum(each.lost for each in stats),
    }


if __name__ == "__main__":
    report(measure)
