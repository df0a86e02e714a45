"""`dspy-mlflow tail` prints traces as they are stored."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from dspy_mlflow_callbacks.cli.printing import say
from dspy_mlflow_callbacks.cli.searching import DONE, JSON, STORE, filters, search_of, with_store

if TYPE_CHECKING:
    from dspy_mlflow_callbacks.stored.search import Search


@click.command("tail")
@filters
@click.option("--limit", type=click.IntRange(min=1), help="end after so many; default: go on until Ctrl-C")
@click.option(
    "--interval", type=click.FloatRange(min=0.05), default=1.0, metavar="SECONDS", help="how often to look (default: 1)"
)
@STORE
@JSON
def command(
    tracking_uri: str | None,
    as_json: bool,  # noqa: FBT001  (click's names)
    limit: int | None,
    interval: float,
    **said: Any,
) -> int:
    """Print traces as they are stored, until Ctrl-C or --limit; with --json a line of JSON for each.

    A trace that took more than ten minutes is not seen. Exit status: 0, or 2 if the store cannot be read.
    """

    def act() -> int:
        try:
            return _tail(search_of(said), limit, interval, as_json=as_json)
        except KeyboardInterrupt:
            return DONE

    return with_store("tail", tracking_uri, act)


def _tail(search: Search, limit: int | None, interval: float, *, as_json: bool) -> int:
    from dspy_mlflow_callbacks.cli.rows import Rows  # noqa: PLC0415
    from dspy_mlflow_callbacks.stored.facts import facts_of  # noqa: PLC0415  (imports MLflow)
    from dspy_mlflow_callbacks.stored.following import Follower  # noqa: PLC0415

    follower, rows, count = Follower(search), Rows(), 0
    if not as_json:
        rows.head()
    while True:
        for facts in map(facts_of, follower.new()):
            if as_json:
                say(json.dumps(facts.to_dict()))
            else:
                rows.row(facts)
            count += 1
            if count == limit:
                return DONE
        sys.stdout.flush()
        time.sleep(interval)
