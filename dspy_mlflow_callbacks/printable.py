"""Texts for a terminal: traces hold what users, LMs and tools said, and a terminal must not obey it."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return *text* with every character spelt out that a terminal would obey or hide: nothing but lines are left.

    That is what `str.isprintable` says no to: control characters and escape sequences, marks that turn the direction
    of writing, what has no width, halves of surrogate pairs. A tab becomes four spaces.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each == "\n" else _spelt(each) for each in text)


def _spelt(character: str) -> str:
    return "    " if character == "\t" else character.encode("unicode_escape").decode()
