"""What commands print: traces hold what users, LMs and tools said, and a terminal must not obey it."""

from __future__ import annotations

import sys
from typing import TextIO

from dspy_mlflow_callbacks.stats import without_credentials


def say(text: str) -> None:
    """Print *text* to standard output, without what a terminal would take for commands."""
    _print(text, sys.stdout)


def complain(problem: str) -> None:
    """Print a problem to standard error, likewise, and without the credentials of a store's address."""
    _print(without_credentials(problem), sys.stderr)


def _print(text: str, file: TextIO) -> None:
    shown = "".join(each if each.isprintable() or each == "\n" else _escaped(each) for each in text)
    encoding = getattr(file, "encoding", None) or "utf-8"
    print(shown.encode(encoding, "backslashreplace").decode(encoding), file=file)


def _escaped(character: str) -> str:
    return "    " if character == "\t" else character.encode("unicode_escape").decode()
