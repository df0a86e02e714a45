"""A program over many inputs: what `run` adds to each, over a plain pool of threads with the same traced program.

The program is `dspy.ChainOfThought("question -> answer")` (five spans) on an LM without latency; the traces go to a
SQLite store.
"""

from __future__ import annotations

import operator
import time
from concurrent.futures import ThreadPoolExecutor

from contestants import CONTESTANTS
from measured import Cpu, NoWarnings, report
from stores import Place
from tables import beside, counted, median, number, table

PLAIN = "`ThreadPoolExecutor.map`"
WAYS = {PLAIN: {}, "`run`": {"trace": "each"}, '`run(trace="one")`': {"trace": "one"}}
WARM_UP = 64  # inputs


def figures(bench):
    inputs, threads = bench.options.inputs, bench.options.input_threads

    def measured(way):
        return bench.measured("many.py", way=way, inputs=inputs, threads=threads)

    rounds = bench.rounds(list(WAYS), 5, 300, measured)
    return {
        "inputs": inputs,
        "threads": threads,
        "rounds": counted(rounds),
        "ways": [row(way, figures, rounds[PLAIN]) for way, figures in rounds.items()],
    }


def row(way, figures, plain):
    return {
        "way": way,
        "ms": median(figures, "ms"),
        "added_ms": None if way == PLAIN else beside(figures, plain, "ms", operator.sub),
        "cpu_ms": median(figures, "driver_ms"),
        "added_cpu_ms": None if way == PLAIN else beside(figures, plain, "driver_ms", operator.sub),
        "spans": min(each["spans"] for each in figures),
        "rounds": figures,
    }


def tables(section):
    said = (
        f"{section['inputs']:,} inputs, {section['threads']} threads, an LM without latency. Milliseconds for each "
        f"input, medians over {section['rounds']} rounds, each way in a process of its own; what is added is over the "
        "plain pool in the same round. CPU is that of the program's own threads until the last result."
    )
    head = ("", "ms", "added", "ms of CPU", "added", "spans stored")
    return [said, "", *table(head, [cells(row) for row in section["ways"]])]


def cells(row):
    times = [number(row[key], 2) for key in ("ms", "added_ms", "cpu_ms", "added_cpu_ms")]
    return row["way"], *times, number(row["spans"], 0)


def measure(way, inputs, threads, folder):
    from program import five_spans, warmed_up

    NoWarnings("dspy_mlflow_callbacks")
    store = CONTESTANTS["ours"].begin(Place(folder))
    program = warmed_up(five_spans(), 20, store)
    called(way, program, WARM_UP, threads)
    store.flush()
    before = sum(store.spans_by_trace().values())
    cpu = Cpu()
    begun, driver = time.perf_counter(), time.process_time()
    assert called(way, program, inputs, threads) == inputs
    taken = (time.perf_counter() - begun) * 1e3 / inputs
    driver = (time.process_time() - driver) * 1e3 / inputs
    store.flush()
    return {
        **cpu.figures(inputs),
        "ms": taken,
        "driver_ms": driver,
        "spans": sum(store.spans_by_trace().values()) - before,
    }


def called(way, program, inputs, threads):
    """Return how many results came."""
    from dspy_mlflow_callbacks import run

    given = ({"question": f"{each}?"} for each in range(inputs))
    if way == PLAIN:
        with ThreadPoolExecutor(threads) as pool:
            return sum(1 for _ in pool.map(lambda each: program(**each), given))
    return sum(1 for _ in run(program, given, max_workers=threads, progress=False, **WAYS[way]))


if __name__ == "__main__":
    report(measure)
