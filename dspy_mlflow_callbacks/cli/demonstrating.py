"""`dspy-mlflow demo` traces a program that needs neither key nor network."""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import click

from dspy_mlflow_callbacks.cli.printing import say
from dspy_mlflow_callbacks.cli.searching import DONE, JSON, STORE, with_store


@click.command("demo")
@STORE
@JSON
def command(tracking_uri: str | None, as_json: bool) -> int:  # noqa: FBT001  (click gives names)
    """Trace a small agent, print its trace, and say how to look at it.

    Without --tracking-uri the trace goes to a new store in a temporary folder. Exit status: 0, or 2 if it cannot be
    stored.
    """
    folder = None if tracking_uri is not None else Path(tempfile.mkdtemp(prefix="dspy-mlflow-demo-"))
    return with_store("demo", tracking_uri, lambda: _demo(folder, as_json=as_json))


def _demo(folder: Path | None, *, as_json: bool) -> int:
    import mlflow  # noqa: PLC0415  (takes seconds, which `--help` and `run` must not take)

    from dspy_mlflow_callbacks.compare.pages import stored_trace  # noqa: PLC0415
    from dspy_mlflow_callbacks.demonstration import run_demo  # noqa: PLC0415
    from dspy_mlflow_callbacks.trace_text import trace_text  # noqa: PLC0415

    with redirect_stdout(sys.stderr):  # what DSPy, MLflow and LiteLLM print is not the demo
        trace_id = run_demo(folder)
        trace, uri = stored_trace(trace_id), mlflow.get_tracking_uri()
    if as_json:
        say(json.dumps({"trace_id": trace_id, "tracking_uri": uri}, indent=2))
        return DONE
    say(trace_text(trace))
    say(f"\nRead its prompts:\n  dspy-mlflow show {trace_id} --prompts --tracking-uri {uri}")
    say(f"Open it in MLflow's UI:\n  mlflow ui --backend-store-uri {uri}")
    return DONE
