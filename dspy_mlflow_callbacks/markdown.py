"""What reports in Markdown have in common."""

from __future__ import annotations

import re
from collections.abc import Iterable


def fenced_diff(lines: Iterable[str]) -> str:
    """Return a code block of a unified diff, which nothing in its *lines* can end."""
    lines = list(lines)
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([f"{fence}diff", *lines, fence])
