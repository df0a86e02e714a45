"""Feedback on traces that are stored: the traces never wait for it, unless their store is away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.export.errors import StoreAwayError, failure
from dspy_mlflow_callbacks.stats import WarnOnce, without_credentials

_WARN = WarnOnce()


def warn_not_stored(where: str, reason: str) -> None:
    """Say once for each place that feedback does not arrive there, and why."""
    _WARN(where, f"Feedback is not stored: {without_credentials(reason)}. The traces are.")


def write_to_database(uri: str, feedback: Sequence[internals.Feedback]) -> str | None:
    """Write feedback on stored traces to an SQL store; return why it is not stored, None if it is.

    Raises:
        StoreAwayError: if it may be stored later.
    """
    return _refused(internals.write_feedback, uri, feedback) if feedback else None


def send_to_server(uri: str, feedback: Sequence[internals.Feedback]) -> str | None:
    """Send feedback on stored traces to a tracking server, which takes one at a time; see `write_to_database`."""
    refused = [_refused(internals.post_feedback, uri, each) for each in feedback]
    return next((reason for reason in refused if reason), None)


def _refused(store: Callable[[str, Any], None], uri: str, feedback: Any) -> str | None:
    try:
        store(uri, feedback)
    except Exception as error:
        reason = failure(error)
        # What a store fails over itself it would fail over again, and the traces are stored.
        if isinstance(reason, StoreAwayError) and not reason.may_be_the_batch:
            raise
        return str(reason)
    return None
