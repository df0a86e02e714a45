"""Many calls at once: what is left of the program's speed, and of its traces.

Threads, or async tasks, call `dspy.ChainOfThought("question -> answer")` (five spans) as fast as an LM with a fixed
latency lets them; the traces go to a SQLite store.
"""

from __future__ import annotations

import asyncio
import operator
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import attrs
from contestants import CONTESTANTS, NO_OP, NONE
from measured import Cpu, NoWarnings, arrivals, report
from stores import Place
from tables import beside, counted, median, number, percent, storage, stored, table

SPANS = 5
NAMES = (NONE, NO_OP, "ours", "ours_native", "autolog", "openinference")
LATENCIES_S = {"threads": 0.1, "tasks": 0.2}


def figures(bench):
    options, names = bench.options, bench.names(NAMES)
    widths = {"threads": options.threads, "tasks": options.tasks}

    def both(name):
        return {
            kind: bench.measured("load.py", contestant=name, kind=kind, width=width, calls=options.load_calls)
            for kind, width in widths.items()
        }

    rounds = bench.rounds(names, 3, 360, both)
    return {
        "calls": options.load_calls,
        "rounds": counted(rounds),
        "loads": [load(kind, width, rounds) for kind, width in widths.items()],
    }


def load(kind, width, rounds):
    rounds = {name: [each[kind] for each in figures] for name, figures in rounds.items()}
    rows = [row(name, figures, rounds) for name, figures in rounds.items()]
    return {"kind": kind, "width": width, "latency_s": LATENCIES_S[kind], "contestants": rows}


def row(name, figures, rounds):
    """Return the figures of a contestant beside those of no callback and of the no-op callback in the same rounds."""
    none, no_op = rounds.get(NONE), rounds.get(NO_OP)
    return {
        "contestant": CONTESTANTS[name].title,
        "calls_per_s": median(figures, "calls_per_s"),
        "calls_per_s_to_none": beside(figures, none, "calls_per_s", operator.truediv),
        "p50_to_none": beside(figures, none, "p50_ms", operator.truediv),
        "p95_to_none": beside(figures, none, "p95_ms", operator.truediv),
        "added_cpu_ms": beside(figures, no_op, "cpu_ms", operator.sub),
        "children_cpu_ms": median(figures, "children_cpu_ms"),
        "stored_after_s": median(figures, "stored_after_s"),
        **storage(CONTESTANTS[name], figures),
        "rounds": figures,
    }


def tables(section):
    said = (
        f"{section['calls']:,} calls. Medians over {section['rounds']} rounds, each contestant in a process of its "
        "own, of its ratio to no callback in the same round. CPU is that of all threads from the first call until all "
        "traces are stored, or no more come, or a minute has passed; that of child processes has their start in it. "
        "Traces stored: the worst round."
    )
    return [said, *(line for load in section["loads"] for line in table_of(load))]


def table_of(load):
    title = f"{load['width']} {load['kind']}, an LM of {load['latency_s'] * 1e3:.0f} ms"
    head = (
        title,
        "calls/s",
        "calls/s to no callback",
        "median latency",
        "p95 latency",
        "CPU over no-op, ms a call",
        "CPU of child processes, ms a call",
        "spans a trace",
        "traces stored",
        "of them whole",
        "all stored after, s",
    )
    return ["", *table(head, [cells(row) for row in load["contestants"]])]


def cells(row):
    return (
        row["contestant"],
        number(row["calls_per_s"], 0),
        percent(row["calls_per_s_to_none"]),
        percent(row["p50_to_none"]),
        percent(row["p95_to_none"]),
        number(row["added_cpu_ms"], 2),
        number(row["children_cpu_ms"], 2),
        *stored(row),
        number(row["whole"], 0),
        number(row["stored_after_s"], 1),
    )


def measure(contestant, kind, width, calls, folder):
    import dspy
    from program import five_spans, offline_lm

    NoWarnings()
    store = CONTESTANTS[contestant].begin(Place(folder))
    dspy.configure(lm=offline_lm(LATENCIES_S[kind]))
    caller = Caller(five_spans(), width, KINDS[kind])
    caller.call(width)  # to warm up
    store.flush()
    cpu = Cpu()
    begun = time.perf_counter()
    latencies_s = caller.call(calls)
    ended = time.perf_counter()
    executed = width + calls
    waited = cpu.waiting(store.wait, executed, executed * SPANS, ended)
    used = cpu.figures(calls)
    kept = store.spans_by_trace()
    return {
        **used,
        "calls_per_s": calls / (ended - begun),
        "p50_ms": statistics.median(latencies_s) * 1e3,
        "p95_ms": statistics.quantiles(latencies_s, n=20)[-1] * 1e3,
        "stored_after_s": waited.all_after_s,
        **arrivals(kept, executed, SPANS),
    }


@attrs.frozen
class Caller:
    """Calls a program from many threads or tasks at once."""

    program: object
    width: int
    run: object

    def call(self, calls):
        """Return the seconds that each of *calls* took."""
        numbers = iter(range(calls))  # unlike a generator, it may be shared by threads
        return [taken for each in self.run(self.program, self.width, numbers) for taken in each]


def in_threads(program, width, numbers):
    def worker(_):
        return [seconds(program, each) for each in numbers]

    with ThreadPoolExecutor(width) as pool:
        return list(pool.map(worker, range(width)))


def seconds(program, number):
    start = time.perf_counter()
    program(question=f"question {number}")
    return time.perf_counter() - start


def in_tasks(program, width, numbers):
    async def worker():
        return [await seconds_async(program, each) for each in numbers]

    async def workers():
        return await asyncio.gather(*(worker() for _ in range(width)))

    return asyncio.run(workers())


async def seconds_async(program, number):
    start = time.perf_counter()
    await program.acall(question=f"question {number}")
    return time.perf_counter() - start


KINDS = {"threads": in_threads, "tasks": in_tasks}


if __name__ == "__main__":
    report(measure)
