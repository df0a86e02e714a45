"""How the cost of a span grows with the number of spans in its trace, and with the size of what it carries."""

from __future__ import annotations

import statistics

from contestants import CONTESTANTS, NO_OP, NONE
from measured import NoWarnings, hold_exporter, report
from processes import WAITING_EXPORTER
from stores import Place
from tables import counted, number, table

SPANS = (1, 10, 100, 1_000, 10_000)
PAYLOADS_KB = (1, 10, 100, 1_000)
SPANS_A_SIZE = 5_000  # spans that are measured of each length of trace, in at least three and at most 100 traces
TIMES = 20  # spans that are measured of each size of payload
SENTENCE = 'He said: "Grüße",\nand left.\n'
NAMES = (NONE, NO_OP, "ours", "ours_native", "autolog", "openinference")


def figures(bench):
    names = bench.names(NAMES)
    spans = [each for each in SPANS if each <= bench.options.max_spans]
    sizes = [each for each in PAYLOADS_KB if each <= bench.options.max_kb]

    def scaled(name):
        return bench.measured("scaling.py", WAITING_EXPORTER, contestant=name, spans=spans, payloads_kb=sizes)

    rounds = bench.rounds(names, 3, 120, scaled)
    return {
        "rounds": counted(rounds),
        "spans": spans,
        "payloads_kb": sizes,
        "contestants": [row(name, figures) for name, figures in rounds.items()],
    }


def row(name, figures):
    """Return medians over rounds: a list for each series."""
    return {
        "contestant": CONTESTANTS[name].title,
        "is_no_op": name == NO_OP,
        **{
            series: [statistics.median(values) for values in zip(*(each[series] for each in figures), strict=True)]
            for series in ("spans_cpu_us", "spans_us", "payloads_cpu_us", "payloads_us")
        },
    }


def tables(section):
    said = (
        f"µs of the caller's CPU a span; medians over {section['rounds']} rounds, each contestant in a process of its "
        "own, MLflow's exporter waiting. The last column is over the no-op callback: what a span of the longest trace "
        "costs, in times of one in a trace of a tenth of its length."
    )
    larger = (
        "The same for traces of one span by the size of its only input. The last column is over the no-op callback: "
        "what the largest costs, in times of a tenth of its size; 10 is linear."
    )
    rows = section["contestants"]
    spans = [f"{each:,} spans" for each in section["spans"]]
    sizes = [f"{each:,} kB" for each in section["payloads_kb"]]
    return [
        said,
        "",
        *table(("", *spans, "growth"), cells(rows, "spans_cpu_us")),
        "",
        larger,
        "",
        *table(("", *sizes, "growth"), cells(rows, "payloads_cpu_us")),
    ]


def cells(rows, series):
    no_op = next((row[series] for row in rows if row["is_no_op"]), None)
    return [
        (row["contestant"], *(number(each, 1) for each in row[series]), number(growth(row[series], no_op), 2))
        for row in rows
    ]


def growth(values, no_op):
    """Return how many times the last value is the one before, both over the no-op callback's; None for what adds none.

    Under a microsecond is noise.
    """
    if no_op is None or len(values) < 2:
        return None
    before, last = (value - base for value, base in zip(values[-2:], no_op[-2:], strict=True))
    return last / before if before > 1 else None


def measure(contestant, spans, payloads_kb, folder):
    import dspy
    from program import Echo, Loop, offline_lm

    NoWarnings()
    CONTESTANTS[contestant].begin(Place(folder))
    dspy.configure(lm=offline_lm())
    loop, echo = Loop(), Echo()
    repeated(loop, 20, spans=2)  # to warm up
    hold_exporter()
    by_spans = [repeated(loop, min(100, max(3, SPANS_A_SIZE // each)), divisor=each, spans=each) for each in spans]
    by_size = [repeated(echo, TIMES, text=prose(each * 1_000)) for each in payloads_kb]
    return {
        "spans_us": [wall for wall, _ in by_spans],
        "spans_cpu_us": [cpu for _, cpu in by_spans],
        "payloads_us": [wall for wall, _ in by_size],
        "payloads_cpu_us": [cpu for _, cpu in by_size],
    }


def repeated(program, times, divisor=1, **inputs):
    """Return the median microseconds of a call, and those of CPU in this thread, each by *divisor*."""
    from program import timed

    taken = [timed(program, **inputs) for _ in range(times)]
    return [statistics.median(each) / divisor / 1e3 for each in zip(*taken, strict=True)]


def prose(size):
    return (SENTENCE * (size // len(SENTENCE.encode()) + 1)).encode()[:size].decode(errors="ignore")


if __name__ == "__main__":
    report(measure)
