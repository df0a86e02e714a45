"""What a call costs the caller, and what is stored of calls without load.

A call is `dspy.ChainOfThought("question -> answer")` on an LM that answers at once: five spans.
"""

from __future__ import annotations

import os
import statistics
import time

from contestants import AUTOLOG, CONTESTANTS, NO_OP
from measured import NoWarnings, arrivals, hold_exporter, report
from processes import WAITING_EXPORTER
from stores import Place
from tables import between, counted, median, number, over, stored, table

SPANS = 5  # what DSPy emits events for in one measured call


def figures(bench):
    names = bench.names(CONTESTANTS)
    sizes = {"calls": bench.options.calls, "warm_up": bench.options.warm_up}

    def caller(name):
        return bench.measured("calls.py", WAITING_EXPORTER, contestant=name, **sizes)

    rounds = bench.rounds(names, 5, 180, caller)
    storing = {name: bench.measured("calls.py", contestant=name, **sizes) for name in names}
    return {**sizes, "rounds": counted(rounds), "contestants": rows(rounds, storing)}


def rows(rounds, storing):
    """Return a row for each contestant, given its figures in each round and those of the run that stores."""
    calls = {name: median(figures, "call_us") for name, figures in rounds.items()}
    cpu = {name: median(figures, "caller_cpu_us") for name, figures in rounds.items()}
    return [
        {
            "contestant": CONTESTANTS[name].title,
            "call_us": calls[name],
            "call_us_by_round": [each["call_us"] for each in figures],
            "added_us_per_span": (calls[name] - calls[NO_OP]) / SPANS if NO_OP in calls else None,
            "caller_cpu_us": cpu[name],
            "added_caller_cpu_us_per_span": (cpu[name] - cpu[NO_OP]) / SPANS if NO_OP in cpu else None,
            "to_no_op": over(calls[name], calls.get(NO_OP)),
            "to_autolog": over(calls[name], calls.get(AUTOLOG)),
            "cpu_ms": storing[name]["cpu_ms"],
            "spans": storing[name]["spans"],
            "executed": storing[name]["executed"],
            "stored": storing[name]["stored"] if CONTESTANTS[name].keeps else None,
        }
        for name, figures in rounds.items()
    ]


def tables(section):
    head = (
        "",
        "µs a call",
        "lowest to highest round",
        "µs a span over no-op",
        "the same in CPU of the caller",
        "times no-op",
        "times autolog",
        "all CPU until flushed, ms a call",
        "spans a trace",
        "traces stored",
    )
    said = (
        f"Medians over {section['rounds']} rounds, each contestant in a process of its own; {section['warm_up']} calls "
        f"to warm up, {section['calls']} measured. The last three columns are of one more run."
    )
    return [said, "", *table(head, [cells(row) for row in section["contestants"]])]


def cells(row):
    return (
        row["contestant"],
        number(row["call_us"], 0),
        between(row["call_us_by_round"], 0),
        number(row["added_us_per_span"], 1),
        number(row["added_caller_cpu_us_per_span"], 1),
        number(row["to_no_op"], 2),
        number(row["to_autolog"], 2),
        number(row["cpu_ms"], 2),
        *stored(row),
    )


def measure(contestant, calls, warm_up, folder):
    from program import five_spans, timed, warmed_up

    NoWarnings("dspy_mlflow_callbacks")
    store = CONTESTANTS[contestant].begin(Place(folder))
    program = warmed_up(five_spans(), warm_up, store)
    exporter_waits = WAITING_EXPORTER.keys() <= os.environ.keys()
    if exporter_waits:
        hold_exporter()
    cpu = time.process_time_ns()
    times = [timed(program, question=f"question {each}") for each in range(calls)]
    if not exporter_waits:
        store.flush()
    cpu = time.process_time_ns() - cpu
    kept = {} if exporter_waits else arrived(store, calls + warm_up)
    return {
        "call_us": statistics.median(wall for wall, _ in times) / 1e3,
        "caller_cpu_us": statistics.median(own for _, own in times) / 1e3,
        "cpu_ms": cpu / calls / 1e6,
        **arrivals(kept, calls + warm_up, SPANS),
    }


def arrived(store, executed):
    """Return the number of spans of each stored trace, once all are there or no more arrive."""
    known, found = None, store.spans_by_trace()
    while found != known and len(found) < executed:
        store.flush()
        known, found = found, store.spans_by_trace()
    return found


if __name__ == "__main__":
    report(measure)
