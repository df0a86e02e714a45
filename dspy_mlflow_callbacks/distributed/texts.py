"""Headers as they come in, from whatever carries them: names in any case, bytes or texts, some of them malformed.

OpenTelemetry's propagators read what is well formed, and would log a warning for each thing that is not: whoever sends
headers could fill the receiver's log.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.{0,200})?")
_KEY = r"(?:[a-z][_0-9a-z\-*/]{0,255}|[a-z0-9][_0-9a-z\-*/]{0,240}@[a-z][_0-9a-z\-*/]{0,13})"
_MEMBER = re.compile(_KEY + r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")
_ENTRY = re.compile(r"[!#-'*+\-.0-9A-Z^-z|~]+=[!#-+\--:<-\[\]-~]*")
_MAX_TRACESTATE_CHARACTERS, _MAX_MEMBERS = 512, 32
_MAX_ENTRY_CHARACTERS, _MAX_ENTRIES, _MAX_BAGGAGE_CHARACTERS = 4096, 180, 8192

Headers = Mapping[Any, Any] | Iterable[tuple[Any, Any]]


def well_formed(headers: Headers) -> dict[str, str]:
    """Return `traceparent`, `tracestate` and `baggage` of *headers*, as far as they are well formed.

    Raises:
        TypeError: if *headers* are neither a mapping nor pairs of names and values.
    """
    values = _values(headers)
    carrier = {}
    if len(values["traceparent"]) == 1 and _TRACEPARENT.fullmatch(values["traceparent"][0]):
        carrier["traceparent"] = values["traceparent"][0]
    state = _tracestate(_members(values["tracestate"]))
    if state:
        carrier["tracestate"] = state
    entries = _baggage(_members(values["baggage"]))
    if entries:
        carrier["baggage"] = entries
    return carrier


def _values(headers: Any) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {"traceparent": [], "tracestate": [], "baggage": []}
    for name, value in _pairs(headers):
        found = values.get(_text(name).lower())
        if found is not None:
            found.extend(map(_text, value) if isinstance(value, (list, tuple)) else [_text(value)])
    return values


def _pairs(headers: Any) -> Iterable[tuple[Any, Any]]:
    if hasattr(headers, "items"):
        return list(headers.items())
    try:
        return [(name, value) for name, value in headers]
    except (TypeError, ValueError):
        message = f"headers must be a mapping of names to values, or pairs of them, got {headers!r}"
        raise TypeError(message) from None


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _members(values: list[str]) -> Iterator[str]:
    for value in values:
        for member in value.split(","):
            if stripped := member.strip(" \t"):
                yield stripped


def _tracestate(members: Iterator[str]) -> str:
    listed = list(members)
    keys = {member.partition("=")[0] for member in listed}
    text = ",".join(listed)
    is_well_formed = (
        all(map(_MEMBER.fullmatch, listed))
        and len(keys) == len(listed) <= _MAX_MEMBERS
        and len(text) <= _MAX_TRACESTATE_CHARACTERS
    )
    return text if is_well_formed else ""


def _baggage(members: Iterator[str]) -> str:
    """Return the entries that are well formed, without their properties, as many as are allowed."""
    kept: list[str] = []
    size = 0
    for member in members:
        key, _, value = member.partition(";")[0].partition("=")
        entry = f"{key.strip()}={value.strip()}"
        is_short = len(entry) <= _MAX_ENTRY_CHARACTERS and len(kept) < _MAX_ENTRIES
        if is_short and _ENTRY.fullmatch(entry) and size + len(entry) + 1 <= _MAX_BAGGAGE_CHARACTERS:
            kept.append(entry)
            size += len(entry) + 1
    return ",".join(kept)
