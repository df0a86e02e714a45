"""What a comparison says, before it is written in a form: headings, lines, tables and diffs."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from typing import Any

import attrs


@attrs.frozen
class Heading:
    """Begins a section."""

    text: str


@attrs.frozen
class Line:
    """A sentence."""

    text: str


@attrs.frozen
class Table:
    """Rows of cells below a head."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@attrs.frozen
class Diff:
    """Lines of a unified diff: those that begin with `-` are the first's, with `+` the second's."""

    lines: tuple[str, ...]


Part = Heading | Line | Table | Diff
Document = Sequence[Part]


def diff(a: Any, b: Any) -> tuple[str, ...]:
    """Return the lines in which two values differ, with one line around them; none where they are equal."""
    return tuple(difflib.unified_diff(_lines(a), _lines(b), "baseline", "candidate", lineterm="", n=1))


def _lines(value: Any) -> list[str]:
    """Return a value's lines: a chat's messages are read best as text, all else as JSON."""
    if isinstance(value, dict) and isinstance(value.get("messages"), list):
        return [line for message in value["messages"] for line in _message(message)]
    if isinstance(value, list) and any(map(_is_text, value)):  # an adapter's `format` returns them alone
        return _lines({"messages": value})
    return json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True, default=str).splitlines()


def _message(message: Any) -> list[str]:
    if _is_text(message):
        return [f"[{message.get('role')}]", *message["content"].splitlines()]
    return _lines({"message": message})


def _is_text(message: Any) -> bool:
    return isinstance(message, dict) and isinstance(message.get("content"), str)
