"""`dspy-mlflow import` stores the traces of a file that `dspy-mlflow export` or another tool has written."""

from __future__ import annotations

import json
import sys

import click

from dspy_mlflow_callbacks.cli.printing import say
from dspy_mlflow_callbacks.cli.searching import DONE, JSON, STORE, with_store


@click.command("import")
@click.argument("file", type=click.Path(allow_dash=True))
@click.option("--experiment", help="where they go (name or id), made if there is none; default: MLflow's active one")
@STORE
@JSON
def command(file: str, experiment: str | None, tracking_uri: str | None, as_json: bool) -> int:  # noqa: FBT001  (click's)
    """Store the traces of FILE (- is standard input): lines of MLflow's JSON, or of OTLP/JSON.

    Traces keep their ids. One that is in the store already stays as it is, so that an import may be run again. Exit
    status: 0, or 2 if it cannot be done; what stood before a line that holds no trace is stored.
    """
    return with_store("import", tracking_uri, lambda: _import(file, experiment, as_json=as_json))


def _import(file: str, experiment: str | None, *, as_json: bool) -> int:
    from dspy_mlflow_callbacks.compare.progress import progress_bar  # noqa: PLC0415
    from dspy_mlflow_callbacks.stored.importing import import_lines  # noqa: PLC0415  (imports MLflow)

    bar = progress_bar("importing traces", is_shown=sys.stderr.isatty())
    with click.open_file(file, encoding="utf-8") as lines, bar as advance:
        done = import_lines(lines, experiment, advance)
    if as_json:
        say(json.dumps({"stored": done.stored, "skipped": done.skipped}, indent=2))
    else:
        say(f"{done.stored} traces stored, {done.skipped} were there already.")
    return DONE
