"""`dspy-mlflow report` makes one HTML page of what stored traces say together."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from dspy_mlflow_callbacks.cli.printing import say
from dspy_mlflow_callbacks.cli.searching import DONE, JSON, STORE, with_store


@click.command("report")
@click.option("--experiment", multiple=True, help="where to look (name or id), once or more; default: all")
@click.option("--since", metavar="TIME", help="how long ago (15m, 2h, 7d), or a date or time (2026-01-31)")
@click.option("--by", help="what to group traces by: fingerprint, tag:KEY, model or day")
@click.option("--limit", type=click.IntRange(min=1), help="the most traces, the newest; default: all")
@click.option("--ui-url", help="where MLflow's UI is, for links; default: the tracking server")
@click.option("--stats", type=click.Path(path_type=Path), metavar="FILE", help="callback.stats() as JSON")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("report.html"), help="default: report.html"
)
@STORE
@JSON
def command(tracking_uri: str | None, as_json: bool, **said: Any) -> int:  # noqa: FBT001  (click's names)
    """Make a page of calls, errors, latency, tokens and cost, over time and by path and model.

    The page is one file that loads nothing. With --json the numbers are printed instead. Exit status: 0, or 2 if it
    cannot be done.
    """
    return with_store("report", tracking_uri, lambda: _report(as_json=as_json, **said))


def _report(*, experiment: tuple[str, ...], stats: Path | None, output: Path, as_json: bool, **said: Any) -> int:
    from dspy_mlflow_callbacks.compare.progress import progress_bar  # noqa: PLC0415
    from dspy_mlflow_callbacks.report import trace_report  # noqa: PLC0415  (imports MLflow)

    counted = None if stats is None else json.loads(stats.read_text(encoding="utf-8"))
    with progress_bar(is_shown=sys.stderr.isatty()) as advance:
        made = trace_report(experiments=experiment, stats=counted, progress=advance, **said)
    if as_json:
        say(json.dumps(made.to_dict(), indent=2, default=str))
    else:
        made.save(output)
        say(f"Written to {output}.")
    return DONE
