"""What writing a trace of five spans to the spool costs: alone, in batches, and from threads that write together."""

from __future__ import annotations

import random
import statistics
import threading
import time
from pathlib import Path

from measured import report
from tables import number, table

FORMS = {
    "one at a time": (1, 1),
    "in batches of 100, as when a store is away": (1, 100),
    "one at a time, from 8 threads (a group commit)": (8, 1),
}
DURABILITIES = {"written": False, "`fsync`": True}
TRACES = 400


def figures(bench):
    return {"rows": bench.measured("spool.py", batches=bench.options.batches), "traces": TRACES}


def tables(section):
    said = (
        f"{section['traces']} traces of five spans, some 9 kB each, into a spool on this machine's disk. Before that "
        "they are encoded as OTLP, which a server that is there costs too. Medians of rounds."
    )
    columns = ("write_us", "write_cpu_us", "encode_cpu_us")
    head = ("how", "durable", "to write, µs a trace", "CPU to write, µs a trace", "CPU to encode, µs a trace")
    rows = [(row["form"], row["durable"], *(number(row[name], 0) for name in columns)) for row in section["rows"]]
    return [said, "", *table(head, rows)]


def measure(batches, folder):
    return [
        {"form": form, "durable": durable, **costs(Path(folder), f"{form} {durable}", sizes, batches, fsync=fsync)}
        for durable, fsync in DURABILITIES.items()
        for form, sizes in FORMS.items()
    ]


def costs(folder, name, sizes, batches, *, fsync):
    from dspy_mlflow_callbacks.export.spool.database import Database
    from dspy_mlflow_callbacks.export.spool.spool import Spool

    threads, most = sizes
    spool = Spool(Database(folder / str(abs(hash(name)))), 1 << 30, 1e9)
    spool.database.fsync = fsync
    times = []
    for _ in range(max(1, batches // 3)):
        rows, encode_us = rows_of_traces()
        began, began_cpu = time.perf_counter(), time.process_time()
        write(spool, rows, threads, most)
        cpu, wall = time.process_time() - began_cpu, time.perf_counter() - began
        times.append((wall / TRACES * 1e6, cpu / TRACES * 1e6, encode_us))
    spool.database.close()
    names = ("write_us", "write_cpu_us", "encode_cpu_us")
    return {name: statistics.median(column) for name, column in zip(names, zip(*times, strict=True), strict=True)}


def write(spool, rows, threads, most):
    if most > 1:
        for start in range(0, len(rows), most):
            spool.add_all([(row, None) for row in rows[start : start + most]])
        return

    def add(own):
        for row in own:
            spool.add(row, is_mine=True)

    running = [threading.Thread(target=add, args=(rows[each::threads],)) for each in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def rows_of_traces():
    """Return rows, and how long each took to be encoded, in microseconds."""
    from dspy_mlflow_callbacks.export.batch import Entry
    from dspy_mlflow_callbacks.export.spool.contents import row_of

    entries = [Entry(0, each, 1, each.prepared()) for each in (Ended() for _ in range(TRACES))]
    began = time.process_time()
    rows = [row_of(entry, time.time()) for entry in entries]
    return rows, (time.process_time() - began) / TRACES * 1e6


class Ended:
    """A trace of five spans with a prompt, a completion and what else stands in spans."""

    def __init__(self):
        from dspy_mlflow_callbacks.export.waiting import Destination

        self.destination = Destination(tracking_uri="http://127.0.0.1:5000", experiment_id="1")

    def prepared(self):
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import SpanContext

        from dspy_mlflow_callbacks.export.waiting import Prepared

        trace_id = random.getrandbits(128)
        contexts = [SpanContext(trace_id, random.getrandbits(64) or 1, is_remote=False) for _ in range(5)]
        text = '{"messages": [{"role": "user", "content": "' + "Why is the sky blue? " * 35 + '"}]}'
        attributes = {"mlflow.spanInputs": text, "mlflow.spanOutputs": text} | {
            f"dspy.{n}": '"a text"' for n in range(8)
        }
        spans = [
            ReadableSpan(
                name="Program.generate",
                resource=Resource({}),
                context=context,
                parent=contexts[0] if number else None,
                attributes=attributes,
                start_time=1_700_000_000_000_000_000,
                end_time=1_700_000_001_000_000_000,
            )
            for number, context in enumerate(contexts)
        ]
        return Prepared(trace_id=f"tr-{trace_id:032x}", spans=spans)


if __name__ == "__main__":
    report(measure)
