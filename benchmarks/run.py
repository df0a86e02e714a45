"""What tracing costs: `make bench`, or `python benchmarks/run.py --help`.

Each contestant is measured in a process of its own, in rounds that alternate between them, so that what else the
machine does meets all of them. The table is printed, and written beside its figures to `benchmarks/results/`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from contestants import CONTESTANTS
from tables import contestant_rows, markdown

HERE = Path(__file__).parent
PACKAGES = ("dspy", "mlflow", "dspy-mlflow-callbacks", "openinference-instrumentation-dspy")


def main():
    options = parse()
    names = [name for name in options.only or CONTESTANTS if CONTESTANTS[name].is_installed()]
    with tempfile.TemporaryDirectory(prefix="bench_") as folder:
        rounds = all_rounds(names, options, folder)
        storing = {name: storing_run(name, options, folder) for name in names}
        parts = run("parts.py", environment(folder), str(options.batches))
    results = {
        "versions": versions(),
        "cores": os.cpu_count(),
        "calls": options.calls,
        "warm_up": options.warm_up,
        "rounds": max(map(len, rounds.values())),
        "contestants": contestant_rows(rounds, storing),
        **parts,
    }
    write(results, options.results / (options.name or f"dspy-{version('dspy')}-mlflow-{version('mlflow')}"))


def parse():
    parser = argparse.ArgumentParser(description="Measure what tracing a DSPy call costs.")
    parser.add_argument("--calls", type=int, default=100, help="measured calls a process")
    parser.add_argument("--warm-up", type=int, default=20, help="calls before them")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each contestant")
    parser.add_argument("--batches", type=int, default=15, help="measurements of each single part")
    parser.add_argument("--seconds", type=float, default=330, help="begin no round that would end later than this")
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, help="contestants; all by default")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="the folder for the table and figures")
    parser.add_argument("--name", help="their file name; by default the versions of dspy and mlflow")
    return parser.parse_args()


def all_rounds(names, options, folder):
    """Return the figures of each contestant, one for each round that there was time for."""
    rounds = {name: [] for name in names}
    begun = time.monotonic()
    longest = 0.0
    for number in range(options.rounds):
        started = time.monotonic()
        if started + longest - begun > options.seconds:
            break
        one_round(rounds, number, options, folder)
        longest = max(longest, time.monotonic() - started)
    return rounds


def one_round(rounds, number, options, folder):
    """Measure what the caller pays, while MLflow's exporter waits: its thread would take the interpreter's lock."""
    names = list(rounds)
    shift = number % len(names)  # nobody always runs after the same one
    for name in names[shift:] + names[:shift]:
        print(f"round {number + 1}: {name}", file=sys.stderr)
        rounds[name].append(measured(name, options, folder, {**environment(folder), **WAITING_EXPORTER}))


def storing_run(name, options, folder):
    """Measure what is stored and what that costs, with MLflow's exporter as it is."""
    print(f"storing: {name}", file=sys.stderr)
    return measured(name, options, folder, environment(folder))


def measured(name, options, folder, variables):
    return run("measure.py", variables, name, str(options.calls), str(options.warm_up), folder)


def run(script, variables, *arguments):
    """Return what *script* prints as JSON, run in a process of its own."""
    command = [sys.executable, str(HERE / script), *arguments]
    done = subprocess.run(command, env=variables, cwd=variables["TMPDIR"], check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout.splitlines()[-1])


WAITING_EXPORTER = {
    "MLFLOW_ASYNC_TRACE_LOGGING_MAX_SPAN_BATCH_SIZE": "2048",
    "MLFLOW_ASYNC_TRACE_LOGGING_MAX_INTERVAL_MILLIS": "3600000",
}


def environment(folder):
    """Return the environment of a measured process: nothing is downloaded, sent home, cached or left behind."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "DSPY_", "OTEL_"))}
    return {
        **kept,
        "TMPDIR": folder,
        "DSPY_CACHEDIR": str(Path(folder, "cache")),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }


def versions():
    return {"Python": platform.python_version()} | {package: version(package) for package in PACKAGES if has(package)}


def has(package):
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def write(results, path):
    table = markdown(results)
    print(table)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f"{path.name}.md").write_text(table, encoding="utf-8")
    path.with_name(f"{path.name}.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
