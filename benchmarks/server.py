"""Against a real `mlflow server` on this machine: what export costs the program, and how fast traces arrive.

A trace has ten spans; they are made one after the other as fast as it goes, so that the server is what is slow.
"""

from __future__ import annotations

import operator
import socket
import sys
import time
import urllib.request
from contextlib import contextmanager

from contestants import CONTESTANTS, NO_OP
from measured import Cpu, NoWarnings, arrivals, report
from processes import environment, process
from stores import SERVER_DATABASE, Place
from tables import beside, counted, median, number, over, storage, stored, table

SPANS = 10
WARM_UP = 10
NAMES = (NO_OP, "ours", "ours_native", "autolog")
START_S = 120  # it takes 13 to 20 seconds on a quiet machine


def figures(bench):
    traces, names = bench.options.server_traces, bench.names(NAMES)
    with server(bench.folder) as uri:

        def burst(name):
            return bench.measured("server.py", contestant=name, traces=traces, server=uri)

        rounds = bench.rounds(names, 3, 150, burst)
    rows = [row(name, figures, rounds.get(NO_OP)) for name, figures in rounds.items()]
    return {"traces": traces, "rounds": counted(rounds), "contestants": rows}


@contextmanager
def server(folder):
    """Run a server with an SQLite store in *folder*; yields its URI once it answers."""
    port = free_port()
    address = ("--host", "127.0.0.1", "--port", str(port))
    places = ("--backend-store-uri", f"sqlite:///{folder / SERVER_DATABASE}", "--artifacts-destination", str(folder))
    variables = {**environment(folder), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log = folder / "server.log"
    with log.open("wb") as output:
        options = {"variables": variables, "stdout": output, "stderr": output}
        with process("-m", "mlflow", "server", *address, *places, **options) as running:
            uri = f"http://127.0.0.1:{port}"
            if not answers(running, f"{uri}/health"):
                sys.exit(f"mlflow server does not answer:\n{log.read_text(errors='replace')[-4_000:]}")
            yield uri


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def answers(running, url):
    """Wait until *url* answers; returns whether it did before the process ended, or the time was over."""
    deadline = time.monotonic() + START_S
    while running.poll() is None and time.monotonic() < deadline:
        if answers_now(url):
            return True
        time.sleep(0.2)
    return False


def answers_now(url):
    try:
        with urllib.request.urlopen(url, timeout=5):  # noqa: S310 -- it is http
            return True
    except OSError:
        return False


def row(name, figures, no_op):
    return {
        "contestant": CONTESTANTS[name].title,
        "added_cpu_ms": beside(figures, no_op, "cpu_ms", operator.sub),
        "children_cpu_ms": median(figures, "children_cpu_ms"),
        "stored_after_s": median(figures, "stored_after_s"),
        "traces_per_s": median(figures, "traces_per_s") if CONTESTANTS[name].keeps else None,
        **storage(CONTESTANTS[name], figures),
        "rounds": figures,
    }


def tables(section):
    said = (
        f"A burst of {section['traces']:,} traces of {SPANS} spans, from one thread, to a server with an SQLite store. "
        f"Medians over {section['rounds']} rounds, each contestant in a process of its own. CPU is that of the program "
        "from the first call until all traces are stored, or no more come, or a minute has passed, over that of the "
        "no-op callback in the same round. Traces a second: what was stored until the last one came. Traces stored: "
        "the worst round."
    )
    head = (
        "",
        "CPU over no-op, ms a trace",
        "CPU of child processes, ms a trace",
        "traces stored a second",
        "all stored after, s",
        "spans a trace",
        "traces stored",
        "of them whole",
    )
    return [said, "", *table(head, [cells(row) for row in section["contestants"]])]


def cells(row):
    return (
        row["contestant"],
        number(row["added_cpu_ms"], 2),
        number(row["children_cpu_ms"], 2),
        number(row["traces_per_s"], 0),
        number(row["stored_after_s"], 1),
        *stored(row),
        number(row["whole"], 0),
    )


def measure(contestant, traces, server, folder):
    from program import TwoSteps, warmed_up

    NoWarnings()
    store = CONTESTANTS[contestant].begin(Place(folder, server))
    program = warmed_up(TwoSteps(), WARM_UP, store)
    store.wait(WARM_UP, WARM_UP * SPANS, time.perf_counter())
    before = len(store.spans_by_trace())
    cpu, executed = Cpu(), WARM_UP + traces
    begun = time.perf_counter()
    for each in range(traces):
        program(question=f"question {each}")
    waited = cpu.waiting(store.wait, executed, executed * SPANS, begun)
    used = cpu.figures(traces)
    kept = store.spans_by_trace()
    return {
        **used,
        "stored_after_s": waited.all_after_s,
        "traces_per_s": over(len(kept) - before, waited.last_after_s),
        **arrivals(kept, executed, SPANS),
    }


if __name__ == "__main__":
    report(measure)
