"""Traces as rows of a terminal, as wide as it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

import attrs
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from dspy_mlflow_callbacks.printable import printable

if TYPE_CHECKING:
    from dspy_mlflow_callbacks.stored.facts import Facts

_ID_WIDTH = 35  # `tr-` and 32 digits
_LEAST_NAME = 12
_MOST_NAME = 60
_PIPED_WIDTH = 200
_COLOURS = {"OK": "green", "ERROR": "red", "IN_PROGRESS": "yellow"}
_SECOND_MS, _MINUTE_MS = 1000, 60_000


@attrs.frozen
class _Column:
    """A column, and what it says of a trace.

    Attributes:
        head: Its name.
        width: In cells.
        says: Returns its text.
        is_right: Whether it is aligned to the right.
    """

    head: str
    width: int
    says: Callable[[Facts], str]
    is_right: bool = False


_TRACE = _Column("trace", _ID_WIDTH, lambda facts: facts.trace_id)
_NAME = _Column("name", _LEAST_NAME, lambda facts: facts.name)
_STATUS = _Column("status", 6, lambda facts: "open" if facts.status == "IN_PROGRESS" else facts.status)
# In the order in which they are left out where a terminal is narrow, last first.
_MORE = (
    _Column("took", 8, lambda facts: duration(facts.duration_ms), is_right=True),
    _Column("time", 19, lambda facts: local_time(facts.time_ms)),
    _Column("errors", 6, lambda facts: str(facts.errors or ""), is_right=True),
    _Column("tokens", 9, lambda facts: f"{facts.tokens:,}" if facts.tokens else "", is_right=True),
    _Column("cost", 10, lambda facts: dollars(facts.cost_usd), is_right=True),
)
_ORDER = ("trace", "time", "name", "status", "took", "tokens", "cost", "errors")


class Rows:
    """Prints a row for each trace as it comes, in colour where that is a terminal that wants it.

    Args:
        console: Where to; None is standard output.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or terminal()
        self._columns = _fitting(self._console.width)

    def head(self) -> None:
        """Print the names of the columns."""
        self._print(Text("  ".join(_cell(each, each.head) for each in self._columns).rstrip(), style="bold"))

    def row(self, facts: Facts) -> None:
        """Print a trace."""
        line = Text()
        for number, column in enumerate(self._columns):
            style = _COLOURS.get(facts.status, "") if column.head == "status" else ""
            line.append(("  " if number else "") + _cell(column, printable(column.says(facts))), style=style)
        line.rstrip()
        self._print(line)

    def _print(self, line: Text) -> None:
        self._console.print(line, no_wrap=True, overflow="ignore", crop=False)


def terminal() -> Console:
    """Return standard output, which takes what it is given for text: no markup, no emoji codes, no highlighting.

    It is as wide as the terminal, or as `COLUMNS` says; where neither is there, 200 cells, so that little is cut for
    who reads on.
    """
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _PIPED_WIDTH
    return console


def _fitting(width: int) -> list[_Column]:
    chosen, left = [_TRACE, _NAME, _STATUS], width - _ID_WIDTH - _LEAST_NAME - _STATUS.width - 4
    for column in _MORE:
        if left < column.width + 2:
            break
        chosen.append(column)
        left -= column.width + 2
    name = attrs.evolve(_NAME, width=min(_MOST_NAME, _LEAST_NAME + max(0, left)))
    return sorted([name, *(each for each in chosen if each is not _NAME)], key=lambda each: _ORDER.index(each.head))


def _cell(column: _Column, text: str) -> str:
    text = " ".join(text.split())
    if cell_len(text) > column.width:
        # An id is of use only as a whole.
        return text if column.head == "trace" else set_cell_size(text, column.width - 1) + "…"
    padding = " " * (column.width - cell_len(text))
    return padding + text if column.is_right else text + padding


def local_time(time_ms: int) -> str:
    """Return a time as its place's clocks show it, such as `2026-01-31 12:00:00`."""
    return datetime.fromtimestamp(time_ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def duration(milliseconds: float | None) -> str:
    """Return a duration with its unit: `12 ms`, `3.4 s`, `5.6 min`; nothing where it is not known."""
    if milliseconds is None:
        return ""
    if milliseconds < _SECOND_MS:
        return f"{milliseconds:.0f} ms"
    in_seconds = milliseconds < _MINUTE_MS
    return f"{milliseconds / _SECOND_MS:.1f} s" if in_seconds else f"{milliseconds / _MINUTE_MS:.1f} min"


def dollars(amount: float | None) -> str:
    """Return US dollars, such as `$0.000123`; nothing where they are not known."""
    return "" if amount is None else f"${amount:.6f}"
