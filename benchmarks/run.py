"""What tracing costs: `make bench`, or `python benchmarks/run.py [part ...] [options]`; `--help` lists them.

The tables are printed, and written to `benchmarks/results/` beside their figures. A run of some parts leaves the other
parts' tables there as they are.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import signal
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from contestants import CONTESTANTS
from processes import HERE, Bench

PACKAGES = ("dspy", "mlflow", "dspy-mlflow-callbacks", "openinference-instrumentation-dspy")

# Each is a module with `figures(bench)`, which measures, and `tables(section)`, which makes Markdown of it.
PARTS = {
    "calls": "What a call costs",
    "parts": "Parts of the way, each alone",
    "load": "Under load",
    "server": "Against a tracking server",
    "memory": "Memory",
    "scaling": "How cost grows",
    "latency": "Until a trace can be read",
    "compare": "Comparing two versions",
    "evaluate": "An evaluation",
    "spool": "Writing to the spool",
    "many": "A program over many inputs",
    "imports": "Importing",
}


def main():
    options = parse()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # what was started is ended first
    path = options.results / (options.name or f"dspy-{version('dspy')}-mlflow-{version('mlflow')}")
    for name in options.parts or PARTS:
        print(*measured(name, options, path)["page"], sep="\n", flush=True)


def parse():
    parser = argparse.ArgumentParser(description="Measure what tracing DSPy programs costs.")
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)}; all by default")
    for_all = parser.add_argument_group("all parts")
    for_all.add_argument("--only", nargs="+", choices=CONTESTANTS, help="contestants; by default those of the part")
    for_all.add_argument("--rounds", type=int, help="processes of each contestant")
    for_all.add_argument("--seconds", type=float, help="begin no round of a part that would end later than this")
    for_all.add_argument("--results", type=Path, default=HERE / "results", help="the folder for tables and figures")
    for_all.add_argument("--name", help="their file name; by default the versions of dspy and mlflow")
    sizes = parser.add_argument_group("sizes")
    for name, (default, what) in SIZES.items():
        sizes.add_argument(f"--{name}", type=int, default=default, help=f"{what} ({default:,})")
    options = parser.parse_intermixed_args()
    for name in set(options.parts) - set(PARTS):
        parser.error(f"there is no part {name!r}, but {', '.join(PARTS)}")
    return options


SIZES = {
    "calls": (100, "calls: measured calls a process"),
    "warm-up": (20, "calls: calls before them"),
    "batches": (15, "parts: measurements of each"),
    "threads": (32, "load: threads that call"),
    "tasks": (256, "load: async tasks that call"),
    "load-calls": (3_064, "load: calls of all threads, and of all tasks"),
    "server-traces": (1_000, "server: traces of ten spans"),
    "memory-calls": (100_000, "memory: traced calls"),
    "full-mb": (64, "memory: the limit of the buffer that is filled, in MB"),
    "max-spans": (10_000, "scaling: the most spans of a trace"),
    "max-kb": (1_000, "scaling: the largest payload, in kB"),
    "compare-traces": (10_000, "compare: traces of each version"),
    "examples": (2_000, "evaluate: examples"),
    "eval-threads": (16, "evaluate: threads"),
    "inputs": (1_000, "many: inputs"),
    "input-threads": (8, "many: threads"),
    "single-traces": (20, "latency: traces, one at a time"),
}


def measured(name, options, path):
    """Measure a part, write it beside what is known of the others, and return its section."""
    with tempfile.TemporaryDirectory(prefix="bench_") as folder:
        figures = importlib.import_module(name).figures(Bench(options, Path(folder)))
    section = {"versions": versions(), "cores": os.cpu_count(), **figures}
    section["page"] = page(name, section)  # kept, so that no later run has to understand these figures
    write({**known(path), name: section}, path)
    return section


def versions():
    return {"Python": platform.python_version()} | {package: version(package) for package in PACKAGES if has(package)}


def has(package):
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def known(path):
    """Return the sections that are written already."""
    written = beside(path, "json")
    return json.loads(written.read_text(encoding="utf-8")) if written.exists() else {}


def write(sections, path):
    sections = {name: sections[name] for name in PARTS if name in sections}
    lines = [line for section in sections.values() for line in section["page"]]
    path.parent.mkdir(parents=True, exist_ok=True)
    beside(path, "md").write_text("\n".join(lines), encoding="utf-8")
    beside(path, "json").write_text(json.dumps(sections, indent=2) + "\n", encoding="utf-8")


def beside(path, ending):
    return path.with_name(f"{path.name}.{ending}")  # the name has dots of its own


def page(name, section):
    """Return the lines of a part's Markdown."""
    machine = ", ".join(f"{package} {number}" for package, number in section["versions"].items())
    tables = importlib.import_module(name).tables(section)
    return [f"## {PARTS[name]}", "", f"{machine}; {section['cores']} cores.", "", *tables, ""]


if __name__ == "__main__":
    main()
