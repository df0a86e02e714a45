"""`dspy-mlflow export` writes stored traces to a file, a line for each; `dspy-mlflow import` stores them again."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from dspy_mlflow_callbacks.cli.printing import complain
from dspy_mlflow_callbacks.cli.searching import DONE, STORE, filters, search_of, with_store


@click.command("export")
@filters
@click.option("--limit", type=click.IntRange(min=1), help="the most traces; default: all")
@click.option("--format", "form", type=click.Choice(("json", "otlp")), default="json", help="default: json")
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="a new file; default: standard output")
@click.option("--json", "as_json", is_flag=True, help="the same as --format json")
@STORE
def command(
    tracking_uri: str | None,
    form: str,
    output: Path | None,
    as_json: bool,  # noqa: FBT001  (click's names)
    limit: int | None,
    **said: Any,
) -> int:
    """Write traces, newest first, a line for each.

    json: all that MLflow has of a trace, as trace.to_json(). otlp: OTLP/JSON as OpenTelemetry's file exporter writes
    it, which other tools read. Attachments stay in the store. Exit status: 0, or 2 if it cannot be done.
    """
    form = "json" if as_json else form
    return with_store("export", tracking_uri, lambda: _export(said, limit, form, output))


def _export(said: dict[str, Any], limit: int | None, form: str, output: Path | None) -> int:
    from dspy_mlflow_callbacks.compare.progress import progress_bar  # noqa: PLC0415
    from dspy_mlflow_callbacks.stored.files import line_of  # noqa: PLC0415  (imports MLflow)
    from dspy_mlflow_callbacks.stored.search import traces  # noqa: PLC0415

    search, count = search_of(said), 0
    with _lines_to(output) as write, progress_bar("exporting traces", is_shown=_is_shown(output)) as advance:
        for trace in traces(search, limit=limit, page=100):
            write(line_of(trace, form))
            count += 1
            advance()
    complain(f"{count} traces exported." if output is None else f"{count} traces exported to {output}.")
    return DONE


def _is_shown(output: Path | None) -> bool:
    """Return whether a progress bar is of use: not between the lines that a terminal shows."""
    return sys.stderr.isatty() and (output is not None or not sys.stdout.isatty())


@contextmanager
def _lines_to(output: Path | None) -> Iterator[Callable[[str], object]]:
    if output is None:
        # JSON spells out what a terminal would obey, and programs read it as it is.
        yield lambda line: sys.stdout.write(f"{line}\n")
        return
    # A new file that only its owner reads: traces hold what users said.
    with os.fdopen(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        yield lambda line: file.write(f"{line}\n")
