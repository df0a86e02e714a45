"""Where a quoted value or a bracket in a text ends, be the text JSON inside JSON at any depth."""

from __future__ import annotations

import re

OPENING = re.compile(r"[rbfuRBFU]{0,2}(?P<slashes>\\*)(?P<mark>\"{3}|'{3}|\"|'|`)")
"""What a quoted value begins with."""

_BRACKETS = re.compile(r"[\[\](){}\"']")


def quoted_end(text: str, opening: re.Match[str]) -> int:
    """Return where a quoted value ends: at the next quote that is escaped as deep as the first, or at the text's end.

    A quote inside n texts of JSON has 2**n - 1 backslashes; those of the value itself come on top, in pairs.
    """
    mark, slashes = opening["mark"], len(opening["slashes"])
    cycle = 2 * (slashes + 1)
    at = text.find(mark, opening.end())
    while at >= 0:
        before = _slashes_before(text, at, opening.end())
        if before % cycle <= slashes:
            return at - before % cycle
        at = text.find(mark, at + 1)
    return len(text)


def _slashes_before(text: str, at: int, start: int) -> int:
    first = at
    while first > start and text[first - 1] == "\\":
        first -= 1
    return at - first


def bracket_end(text: str, at: int) -> int:
    """Return where the bracket at a position is closed; the text's end where it is not."""
    depth, start = 0, at
    while (found := _BRACKETS.search(text, at)) is not None:
        at = found.end()
        if found[0] in "\"'":
            slashes = _slashes_before(text, found.start(), start)
            opening = OPENING.match(text, found.start() - slashes)
            at = quoted_end(text, opening) + slashes + 1 if opening is not None else at
            continue
        depth += 1 if found[0] in "[({" else -1
        if depth == 0:
            return at
    return len(text)
