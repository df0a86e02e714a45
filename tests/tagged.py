"""What tests say of a trace, as options or in a scope, and how it stands on the trace."""

from __future__ import annotations

SESSION, USER = "mlflow.trace.session", "mlflow.trace.user"
TOLD = {"tags": {"team": "search"}, "metadata": {"commit": "abc"}, "session_id": "seven", "user": "ann"}
SAID = {"team": "search", "commit": "abc", SESSION: "seven", USER: "ann"}


def said(trace, names=(*SAID, "mine")):
    """Return what a stored trace says under these names, as tag or as metadata."""
    both = {**trace.info.request_metadata, **trace.info.tags}
    return {name: both[name] for name in names if name in both}
