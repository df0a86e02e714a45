"""Destinations as the spool keeps them: without credentials, and such that another process finds them."""

from __future__ import annotations

import os
import re
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import attrs
import mlflow
import orjson

from dspy_mlflow_callbacks.export.spool.errors import SpoolError
from dspy_mlflow_callbacks.export.waiting import Destination
from dspy_mlflow_callbacks.stats import without_credentials

_SECRET = re.compile("pass|token|secret|key|credential", re.IGNORECASE)
_SQLITE = re.compile(r"^(sqlite(?:\+\w+)?):///([^?]*)(.*)$", re.DOTALL)
_IN_MEMORY = re.compile(r"^sqlite(?:\+\w+)?:(//)?$|:memory:|mode=memory")

_FULL: dict[str, str] = {}


def as_text(destination: Destination) -> str:
    """Return a destination as JSON.

    Raises:
        SpoolError: if it is a store in this process's memory, which no other one finds.
    """
    uri = lasting(destination.tracking_uri)
    _FULL.setdefault(uri, destination.tracking_uri)
    return orjson.dumps(attrs.asdict(attrs.evolve(destination, tracking_uri=uri))).decode()


def from_text(text: str) -> Destination:
    """Return the destination of a text, with the credentials that this process has for it.

    Raises:
        SpoolError: if it is none.
    """
    try:
        destination = Destination(**orjson.loads(text))
        uri = str(destination.tracking_uri)
    except (ValueError, TypeError) as error:
        message = f"a destination cannot be read: {text!r}"
        raise SpoolError(message) from error
    return attrs.evolve(destination, tracking_uri=_full(uri))


def lasting(uri: str) -> str:
    """Return a tracking URI without credentials, and with the whole path of a file."""
    if _IN_MEMORY.search(uri):
        message = "the store is in this process's memory"
        raise SpoolError(message)
    file = _SQLITE.match(uri)
    if file is not None:
        scheme, path, rest = file.groups()
        return f"{scheme}:///{path if path.startswith('file:') else os.path.abspath(path)}{rest}"  # noqa: PTH100  (a text)
    parts = urlsplit(without_credentials(uri))
    if not parts.query:
        return without_credentials(uri)
    kept = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if not _SECRET.search(pair[0])]
    return urlunsplit(parts._replace(query=urlencode(kept)))


def _full(uri: str) -> str:
    known = _FULL.get(uri)
    if known is not None:
        return known
    configured = mlflow.get_tracking_uri()
    try:
        is_it = lasting(configured) == uri
    except SpoolError:
        return uri
    return configured if is_it else uri
