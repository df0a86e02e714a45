"""How much a stored trace takes, with each setting that makes it smaller: `python benchmarks/volume.py --help`.

One call is `ChainOfThought("context, question -> answer")` on a language model that answers in the same process. The
table is printed, and stands in docs/production.md.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
from pathlib import Path

CONTEXTS = {"short": 100, "10 kB": 10_000}  # characters
ANSWER = {"reasoning": "The passages say so in the second sentence. " * 5, "answer": "Rayleigh scattering"}
PASSAGE = "Sunlight reaches the atmosphere and is scattered in all directions by the gases in the air. "

SETTINGS = {
    "default": {},
    "info": {"level": "info"},
    "modules": {"events": ["module"]},
    "lms": {"events": ["lm"]},
    "limit": {"max_payload_chars": 2_000},
    "info-limit": {"level": "info", "max_payload_chars": 2_000},
    "no-messages": {"capture_messages": False},
    "no-inputs": {"capture_inputs": False},
    "no-content": {"capture_inputs": False, "capture_outputs": False},
}

HEAD = "| setting | spans | short: trace, kB | on disk, kB | 10 kB of context: trace, kB | on disk, kB |"


def main():
    options = parse()
    with tempfile.TemporaryDirectory(prefix="volume_") as folder:
        prepare(folder)
        rows = [row(SETTINGS[name], options.calls, Path(folder)) for name in options.only or SETTINGS]
    print(json.dumps(rows) if options.json else markdown(rows))


def parse():
    parser = argparse.ArgumentParser(description="Measure how much a stored trace takes.")
    parser.add_argument("--calls", type=int, default=100, help="calls with each setting")
    parser.add_argument("--only", nargs="+", choices=SETTINGS, help="settings; all by default")
    parser.add_argument("--json", action="store_true", help="print the figures instead of the table")
    return parser.parse_args()


def prepare(folder):
    """Set up an empty store before dspy and mlflow are imported: nothing is downloaded, sent home or cached."""
    os.environ["DSPY_CACHEDIR"] = str(Path(folder, "cache"))
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    for name in [name for name in os.environ if name.startswith("DSPY_MLFLOW_")]:
        del os.environ[name]
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    mlflow.set_tracking_uri(f"sqlite:///{Path(folder, 'mlflow.db')}")


def row(settings, calls, folder):
    """Return what traces take with *settings*, for each size of context."""
    sizes = {name: measured(settings, characters, calls, folder) for name, characters in CONTEXTS.items()}
    return {"setting": title(settings), **sizes}


def title(settings):
    """Return how *settings* are written as arguments."""
    arguments = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    return f"`{arguments}`" if arguments else "the default"


def measured(settings, characters, calls, folder):
    """Return the number of spans, and the bytes of a trace: of its spans as JSON, and added on disk."""
    import dspy
    import mlflow
    from dspy.utils.dummies import DummyLM

    from dspy_mlflow_callbacks import MlflowCallback

    experiment_id = mlflow.create_experiment(f"{settings} {characters}", artifact_location=(folder / "files").as_uri())
    callback = MlflowCallback(experiment=experiment_id, **settings)
    dspy.configure(lm=DummyLM([ANSWER] * calls), callbacks=[callback])
    program = dspy.ChainOfThought("context, question -> answer")
    context = (PASSAGE * (characters // len(PASSAGE) + 1))[:characters]
    before = on_disk(folder)
    for number in range(calls):
        program(context=context, question=f"Why is the sky blue? ({number})")
    callback.flush()
    traces = mlflow.search_traces(locations=[experiment_id], return_type="list", max_results=calls)
    assert len(traces) == calls, f"{len(traces)} of {calls} traces are stored"
    counted = [len(json.dumps(span.to_dict())) for trace in traces for span in trace.data.spans]
    return {
        "spans": len(traces[0].data.spans),
        "trace_bytes": sum(counted) / calls,
        "disk_bytes": (on_disk(folder) - before) / calls,
    }


def on_disk(folder):
    files = [*folder.glob("mlflow.db*"), *folder.glob("files/**/*")]
    return sum(path.stat().st_size for path in files if path.is_file())


def markdown(rows):
    """Return the table."""
    lines = [HEAD, "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for each in rows:
        figures = [f"{each[name][key] / 1e3:.1f}" for name in CONTEXTS for key in ("trace_bytes", "disk_bytes")]
        lines.append(f"| {' | '.join((each['setting'], str(each['short']['spans']), *figures))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
