"""Reading traces from the store, a page after the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mlflow import MlflowClient, get_tracking_uri
from mlflow.entities import Trace
from mlflow.exceptions import MlflowException

from dspy_mlflow_callbacks.compare.selection import Query
from dspy_mlflow_callbacks.stats import without_credentials

PAGE = 200
"""Traces that are held in memory at a time."""


def stored_trace(trace: Any) -> Trace:
    """Return a trace, which may be given by its id.

    Raises:
        TypeError: if it is neither a trace nor a text.
        ValueError: if the store has no such trace.
    """
    if isinstance(trace, Trace):
        return trace
    if not isinstance(trace, str):
        message = f"a trace must be an mlflow.entities.Trace or its id, got {trace!r}"
        raise TypeError(message)
    try:
        return MlflowClient().get_trace(trace)
    except MlflowException as error:
        message = without_credentials(
            f"there is no trace {trace!r} in the store {get_tracking_uri()} ({error.message}). Call "
            "mlflow.set_tracking_uri() with the store that has it, and dspy_mlflow_callbacks.flush() where it is made"
        )
        raise ValueError(message) from None


def read(query: Query) -> Iterator[Trace]:
    """Yield the traces that a query finds, each with its spans, oldest first, so that new ones come last."""
    return found(
        MlflowClient(),
        page=PAGE,
        locations=list(query.locations),
        filter_string=query.filter_string,
        run_id=query.run_id,
        order_by=["timestamp_ms ASC"],
    )


def found(client: MlflowClient, *, page: int, limit: int | None = None, **asked: Any) -> Iterator[Trace]:
    """Yield the traces that `MlflowClient.search_traces` finds, each once.

    Args:
        client: The store's.
        page: How many are read at a time.
        limit: The most that there will be; None for all.
        asked: The search's arguments.
    """
    token, seen = None, set[str]()
    while limit is None or len(seen) < limit:
        most = page if limit is None else min(page, limit - len(seen))
        traces = client.search_traces(**asked, max_results=most, page_token=token)
        for trace in traces:
            if trace.info.trace_id not in seen:  # one that was stored meanwhile moves pages
                seen.add(trace.info.trace_id)
                yield trace
        token = traces.token
        if not token:
            return
