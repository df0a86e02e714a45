"""The command `dspy-mlflow`: one file for each of its commands."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import NoReturn

from dspy_mlflow_callbacks.cli.commands import COMPLETE, NAME, commands


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command.

    Args:
        arguments: What stands behind its name; None is `sys.argv`'s.

    Raises:
        SystemExit: with status 2 if *arguments* are wrong, 0 after `--help` and `--version`, else what the command
            says.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what an encoding lacks is spelt out; no command fails for it
            stream.reconfigure(errors="backslashreplace")
    said = list(sys.argv[1:] if arguments is None else arguments)
    commands.main(args=said, prog_name=NAME, complete_var=COMPLETE, windows_expand_args=False)
    raise AssertionError  # pragma: no cover  (it exits, which its type does not say)
