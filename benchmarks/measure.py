"""One contestant in this process: `python measure.py <name> <calls> <warm-up calls> <folder>` prints its figures.

A call is `dspy.ChainOfThought("question -> answer")` on an LM that answers at once: two modules, an adapter's format
and parse, and the LM, so five spans.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import sys
import time
from pathlib import Path

import dspy
from contestants import CONTESTANTS

ANSWER = "[[ ## reasoning ## ]]\nbecause\n\n[[ ## answer ## ]]\n42\n\n[[ ## completed ## ]]"


class Engine:
    """Answers in this process, without latency."""

    def complete(self, request):
        return dspy.lm15.Response(
            id="r",
            model=request.model,
            message=dspy.lm15.Message.assistant(ANSWER),
            finish_reason="stop",
            usage=dspy.lm15.Usage(input_tokens=100, output_tokens=20),
        )


class NoWarnings(logging.Handler):
    """Ends the measurement when a callback fails: what is not recorded costs nothing."""

    def __init__(self):
        super().__init__(logging.WARNING)
        for watched in ("dspy.utils.callback", "dspy_mlflow_callbacks"):
            logging.getLogger(watched).addHandler(self)

    def emit(self, record):
        sys.exit(f"not measured: {record.getMessage()}")


def lm_without_latency(calls):
    if hasattr(dspy, "lm15"):
        return dspy.LM("openai/offline", engine=Engine(), cache=False)
    from dspy.utils.dummies import DummyLM  # dspy < 3.4 has no engines

    return DummyLM([{"reasoning": "because", "answer": "42"}] * calls)


def timed(program, question):
    """Return the nanoseconds that a call takes, and those of CPU that it takes in this thread."""
    cpu, start = time.thread_time_ns(), time.perf_counter_ns()
    program(question=question)
    end = time.perf_counter_ns()
    return end - start, time.thread_time_ns() - cpu


def stored(destination, executed):
    """Return the number of spans of each stored trace, once all are there or no more arrive."""
    known, found = None, destination.spans_by_trace()
    while found != known and len(found) < executed:
        destination.flush()
        known, found = found, destination.spans_by_trace()
    return found


def measure(name, calls, warm_up, folder):
    destination = CONTESTANTS[name].begin(folder)
    dspy.configure(lm=lm_without_latency(calls + warm_up))
    program = dspy.ChainOfThought("question -> answer")
    for number in range(warm_up):
        program(question=f"warm-up {number}")
    destination.flush()
    exporter_waits = "MLFLOW_ASYNC_TRACE_LOGGING_MAX_INTERVAL_MILLIS" in os.environ
    cpu = time.process_time_ns()
    times = [timed(program, f"question {number}") for number in range(calls)]
    if not exporter_waits:
        destination.flush()
    cpu = time.process_time_ns() - cpu
    kept = {} if exporter_waits else stored(destination, calls + warm_up)
    return {
        "call_us": statistics.median(wall for wall, _ in times) / 1e3,
        "caller_cpu_us": statistics.median(own for _, own in times) / 1e3,
        "cpu_ms": cpu / calls / 1e6,
        "executed": calls + warm_up,
        "stored": len(kept),
        "spans": sorted(set(kept.values())),
    }


if __name__ == "__main__":
    NoWarnings()
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))), flush=True)
    if "MLFLOW_ASYNC_TRACE_LOGGING_MAX_INTERVAL_MILLIS" in os.environ:
        os._exit(0)  # what waited is not of interest
