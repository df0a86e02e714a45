"""The command `dspy-mlflow`: one file for each of its commands."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from typing import NoReturn

import dspy_mlflow_callbacks
from dspy_mlflow_callbacks.cli import comparing, doctoring, replaying, running, spooling

# Each has `add(commands)`, which adds a parser that sets `does`: what is called with what was said and returns the
# exit status.
_COMMANDS = (running, replaying, comparing, spooling, doctoring)


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
    own, target = running.split(list(sys.argv[1:] if arguments is None else arguments))
    said = _parser().parse_args(own, argparse.Namespace(target=target))
    sys.exit(said.does(said))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dspy-mlflow", description="MLflow traces of DSPy programs.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {dspy_mlflow_callbacks.__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    for command in _COMMANDS:
        command.add(commands)
    return parser
