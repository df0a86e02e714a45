"""What commands print: traces hold what users, LMs and tools said, and a terminal must not obey it."""

from __future__ import annotations

import sys

from dspy_mlflow_callbacks.printable import printable
from dspy_mlflow_callbacks.stats import without_credentials


def say(text: str) -> None:
    """Print *text* to standard output, without what a terminal would take for commands."""
    sys.stdout.write(f"{printable(text)}\n")


def complain(problem: str) -> None:
    """Print a problem to standard error, likewise, and without the credentials of a store's address."""
    sys.stderr.write(f"{printable(without_credentials(problem))}\n")
