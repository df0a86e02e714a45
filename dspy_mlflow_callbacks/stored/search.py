"""Which stored traces, and in what order they are read: page by page, never all at once."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

import attrs
from mlflow import MlflowClient
from mlflow.entities import Trace

from dspy_mlflow_callbacks.compare.pages import found
from dspy_mlflow_callbacks.compare.selection import locations_of, quoted, tag_name

STATUSES = ("OK", "ERROR", "IN_PROGRESS")
"""What the status of a trace may be."""

PAGE = 500
"""Traces that are held in memory at a time: the most that MLflow gives at once."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")


@attrs.frozen(kw_only=True)
class Search:
    """Which traces.

    Attributes:
        experiments: By name or id; none for all.
        locations: The same by their ids alone, where they are known; none for what *experiments* says.
        status: One of `STATUSES`; None for any.
        since_ms: When the oldest began, in milliseconds since 1970; None for any time.
        tags: What tags must be.
        name: What the trace is called; `*` stands for any text. None for any.
    """

    experiments: Sequence[str] = ()
    locations: Sequence[str] = ()
    status: str | None = None
    since_ms: int | None = None
    tags: Mapping[str, str] = attrs.field(factory=dict)
    name: str | None = None

    def filter_string(self) -> str | None:
        """Return it in MLflow's search language; None where all traces are meant.

        Raises:
            ValueError: if a text has both kinds of quotes, or a tag's name a backtick.
        """
        parts = [f"tag.`{tag_name(key)}` = {quoted(value)}" for key, value in self.tags.items()]
        if self.status is not None:
            parts.append(f"status = {quoted(self.status)}")
        if self.since_ms is not None:
            parts.append(f"timestamp_ms >= {self.since_ms}")
        if self.name is not None:
            parts.append(_named(self.name))
        return " AND ".join(parts) or None


def _named(name: str) -> str:
    return f"name LIKE {quoted(name.replace('*', '%'))}" if "*" in name else f"name = {quoted(name)}"


def since_ms(text: str, now: float | None = None) -> int:
    """Return when it was, in milliseconds since 1970: `15m`, `2h`, `7d` ago, or an ISO date or time.

    Args:
        text: What was said; a time without a zone is local.
        now: Seconds since 1970; None is now.

    Raises:
        ValueError: if it is neither.
    """
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return int(((time.time() if now is None else now) - float(ago[1]) * _UNITS[ago[2]]) * 1000)
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1000)
    except ValueError:
        message = (
            f"since must be a time ago (15m, 2h, 7d) or a date or time (2026-01-31, 2026-01-31T12:00), got {text!r}"
        )
        raise ValueError(message) from None


def traces(search: Search, *, limit: int | None = None, with_spans: bool = True, page: int = PAGE) -> Iterator[Trace]:
    """Yield the traces that a search finds, newest first.

    Args:
        search: Which.
        limit: The most that there will be; None for all.
        with_spans: Whether they come with their spans, which takes ten times as long.
        page: How many are read at a time.

    Raises:
        ValueError: if there is no such experiment, or the search cannot be said to MLflow.
        mlflow.exceptions.MlflowException: if the store cannot be read.
    """
    client = MlflowClient()
    yield from found(
        client,
        page=page,
        limit=limit,
        locations=list(search.locations or locations_of(client, search.experiments or None)),
        filter_string=search.filter_string(),
        include_spans=with_spans,
        order_by=["timestamp_ms DESC"],
    )
