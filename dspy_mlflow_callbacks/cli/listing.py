"""`dspy-mlflow list` prints the newest traces, a row for each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from dspy_mlflow_callbacks.cli.printing import say
from dspy_mlflow_callbacks.cli.searching import DONE, JSON, STORE, filters, search_of, with_store

if TYPE_CHECKING:
    from dspy_mlflow_callbacks.stored.facts import Facts

_PAGE = 50


@click.command("list")
@filters
@click.option("--limit", type=click.IntRange(min=1), default=20, help="how many (default: 20)")
@STORE
@JSON
def command(tracking_uri: str | None, as_json: bool, limit: int, **said: Any) -> int:  # noqa: FBT001  (click's names)
    """Print the newest traces: id, time, name, status, duration, tokens, cost and how many spans failed.

    Exit status: 0, also where there are none; 2 if the store cannot be read.
    """
    return with_store("list", tracking_uri, lambda: _list(said, limit, as_json=as_json))


def _list(said: dict[str, Any], limit: int, *, as_json: bool) -> int:
    from dspy_mlflow_callbacks.cli.rows import Rows  # noqa: PLC0415  (rich takes a tenth of a second)

    found = _found(said, limit)
    if as_json:
        say(json.dumps([facts.to_dict() for facts in found], indent=2))
        return DONE
    first = next(found, None)  # or else the store has said why not
    rows = Rows()
    rows.head()
    for facts in chain([first] if first else [], found):
        rows.row(facts)
    return DONE


def _found(said: dict[str, Any], limit: int) -> Iterator[Facts]:
    from dspy_mlflow_callbacks.stored.facts import facts_of  # noqa: PLC0415
    from dspy_mlflow_callbacks.stored.search import traces  # noqa: PLC0415

    # With their spans, to count those that failed: twenty traces take some milliseconds.
    return map(facts_of, traces(search_of(said), limit=limit, page=_PAGE))
