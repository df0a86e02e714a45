"""What reports in Markdown have in common: nothing that a trace says can begin, end or be a part of their form."""

from __future__ import annotations

import re
from collections.abc import Iterable

from dspy_mlflow_callbacks.printable import printable

# Brackets alone mean nothing: a link has more behind them.
_MEANS_SOMETHING = re.compile(r"([\\|`*_<&~]|^>|\](?=[(:\[]))")


def markdown_text(text: str) -> str:
    """Return one line of Markdown (GitHub's flavour) that reads as *text* does: no cell, link, heading or HTML."""
    return _MEANS_SOMETHING.sub(r"\\\1", printable(" ".join(text.split())))


def fenced_diff(lines: Iterable[str]) -> str:
    """Return a code block of a unified diff, which nothing in its *lines* can end."""
    lines = [printable(line) for line in lines]
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([f"{fence}diff", *lines, fence])
