"""Processes that measure: each contestant in one of its own, in rounds that alternate between contestants."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import attrs
from contestants import CONTESTANTS

HERE = Path(__file__).parent
AT_MOST_S = 600  # what a process may take; then something is wrong

# MLflow's exporter does not begin while this is set: its thread would take the interpreter's lock.
WAITING_EXPORTER = {
    "MLFLOW_ASYNC_TRACE_LOGGING_MAX_SPAN_BATCH_SIZE": "2048",
    "MLFLOW_ASYNC_TRACE_LOGGING_MAX_INTERVAL_MILLIS": "3600000",
}


@attrs.frozen
class Bench:
    """What a part of the benchmarks is given to measure with.

    Attributes:
        options: The command line's options.
        folder: A folder for what the processes write.
    """

    options: argparse.Namespace
    folder: Path

    def names(self, default):
        """Return who is measured: those that were asked for, or *default*; but only who is installed."""
        return [name for name in self.options.only or default if CONTESTANTS[name].is_installed()]

    def rounds(self, names, rounds, seconds, measure):
        """Return what *measure* returns for each of *names*, in as many rounds as there is time for."""
        return in_rounds(names, self.options.rounds or rounds, self.options.seconds or seconds, measure)

    def measured(self, script, variables=(), **settings):
        """Return the figures that *script* prints, run in a process of its own."""
        settings = json.dumps({"folder": str(self.folder), **settings})
        variables = {**environment(self.folder), **dict(variables)}
        with process(str(HERE / script), settings, variables=variables, stdout=subprocess.PIPE) as running:
            printed, _ = running.communicate(timeout=AT_MOST_S)
        if running.returncode != 0:
            sys.exit(f"{script} {settings} ended with {running.returncode}")
        return json.loads(printed.splitlines()[-1])


def in_rounds(names, rounds, seconds, measure):
    """Begin no round that would end later than *seconds* from now, but for the first."""
    figures = {name: [] for name in names}
    begun, longest = time.monotonic(), 0.0
    for number in range(rounds):
        started = time.monotonic()
        if number and started + longest - begun > seconds:
            break
        shift = number % len(names)  # nobody always runs after the same one
        for name in names[shift:] + names[:shift]:
            print(f"round {number + 1}: {name}", file=sys.stderr)
            figures[name].append(measure(name))
        longest = max(longest, time.monotonic() - started)
    return figures


@contextmanager
def process(*arguments, variables, **options):
    """Run Python with *arguments*; at the end neither it nor a process that it started is left."""
    command = [sys.executable, *arguments]
    folder = variables["TMPDIR"]
    with subprocess.Popen(command, env=variables, cwd=folder, start_new_session=True, **options) as running:
        try:
            yield running
        finally:
            end_group(running)


def end_group(running):
    """End a process and those that it started: gently at first, and not at all gently after ten seconds."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + 10
        try:
            os.killpg(running.pid, number)
            while time.monotonic() < deadline:
                running.poll()  # a child that has ended is in the group until somebody has asked for its code
                os.killpg(running.pid, 0)
                time.sleep(0.05)
        except ProcessLookupError:
            return


def environment(folder):
    """Return the environment of a measured process: nothing is downloaded, sent home, cached or left behind."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "DSPY_", "OTEL_"))}
    return {
        **kept,
        "TMPDIR": str(folder),
        "DSPY_CACHEDIR": str(Path(folder, "cache")),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }
