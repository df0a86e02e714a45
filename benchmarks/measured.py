"""What a measured process does: reads its settings, measures, prints its figures, and counts CPU and memory.

Children and memory are read from `/proc`, so on Linux only; elsewhere only children that have ended are counted.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import time
from pathlib import Path

PROC = Path("/proc")


def report(measure):
    """Print the figures that *measure* returns for the settings in the command line, and leave at once.

    What still waits in a queue then is of no interest: everything that matters has been counted.
    """
    print(json.dumps(measure(**json.loads(sys.argv[1]))), flush=True)
    os._exit(0)


def arrivals(kept, executed, spans):
    """Return how much is in the store, given the number of spans of each trace there and those that it should have."""
    return {
        "executed": executed,
        "stored": len(kept),
        "whole": sum(found == spans for found in kept.values()),
        "spans": sorted(set(kept.values())),
    }


class NoWarnings(logging.Handler):
    """Ends the measurement when a callback fails: what is not recorded costs nothing."""

    def __init__(self, *watched):
        super().__init__(logging.WARNING)
        for name in ("dspy.utils.callback", *watched):
            logging.getLogger(name).addHandler(self)

    def emit(self, record):
        sys.exit(f"not measured: {record.getMessage()}")


def children_cpu_s():
    """Return the seconds of CPU that the processes below this one have taken."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime + sum(ticks(pid) for pid in children()) / os.sysconf("SC_CLK_TCK")


def children():
    """Return the ids of the living processes below this one."""
    parents = {int(path.name): parent(path) for path in PROC.glob("[0-9]*")}
    found = [os.getpid()]
    for pid in found:
        found += [child for child, above in parents.items() if above == pid]
    return found[1:]


def parent(path):
    fields = stat(path)
    return int(fields[1]) if fields else None


def ticks(pid):
    """Return the clock ticks of a process, with those of its children that have ended."""
    fields = stat(PROC / str(pid))
    return sum(map(int, fields[11:15]))


def stat(path):
    """Return what `proc(5)` lists from the third field on; nothing once the process is gone."""
    try:
        return (path / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def resident_bytes():
    """Return what this process holds in memory."""
    return int((PROC / "self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def hold_exporter():
    """Let this package's exporter sleep from now on, as MLflow's does: traces are handed over, and nobody is woken."""
    from dspy_mlflow_callbacks.export.buffer import NEVER
    from dspy_mlflow_callbacks.export.exporter import EXPORTER

    buffer = EXPORTER._buffer
    while buffer.puts and buffer._awaited == NEVER:  # it works still
        time.sleep(0.001)
    buffer._awaited = NEVER


class Cpu:
    """The CPU of this process and of those below it from now on, without what the calling thread says it wasted."""

    def __init__(self):
        self.own, self.below, self.waited = time.process_time(), children_cpu_s(), 0.0

    def waiting(self, wait, *arguments, **options):
        """Return what *wait* returns; what it takes in this thread is not counted."""
        begun = time.thread_time()
        waited = wait(*arguments, **options)
        self.waited += time.thread_time() - begun
        return waited

    def figures(self, calls):
        """Return the milliseconds of each of *calls*, in this process and in those below it."""
        own = time.process_time() - self.own - self.waited
        return {"cpu_ms": own / calls * 1e3, "children_cpu_ms": (children_cpu_s() - self.below) / calls * 1e3}
