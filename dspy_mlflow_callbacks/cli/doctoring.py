"""`dspy-mlflow doctor` says what is in force, what is wrong, and what mends it."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING

import click

from dspy_mlflow_callbacks.cli.printing import complain, say
from dspy_mlflow_callbacks.cli.targets import TargetError, found
from dspy_mlflow_callbacks.stats import logger

if TYPE_CHECKING:
    from dspy_mlflow_callbacks.health import Diagnosis

HEALTHY, PROBLEM, COULD_NOT_LOOK = 0, 1, 2


@click.command("doctor")
@click.argument("program", required=False, metavar="[MODULE[:ATTRIBUTE]]")
@click.option("--json", "as_json", is_flag=True, help="print JSON instead of a report")
@click.option(
    "--timeout", type=float, default=10.0, metavar="SECONDS", help="how long the store may take (default: 10)"
)
def command(program: str | None, as_json: bool, timeout: float) -> int:  # noqa: FBT001  (click gives names)
    """Say what is in force and what is wrong with it.

    Look at versions, callbacks, engine, destination, options, variables and other tracers, and say what is wrong and
    what mends it. Nothing is stored.

    MODULE is of this folder or an installed one: it is imported, and what it configures is looked at; with a program
    there (or a function without arguments that makes it) that one's callbacks too. Without it: what `dspy-mlflow run`
    would set up here.

    Exit status: 0 if there is no problem, 1 if there is one, 2 if it could not look.
    """
    try:
        with redirect_stdout(sys.stderr), _warnings_kept():  # what the user's module prints is not the report
            diagnosis = _diagnosis(program, timeout)
    except (ImportError, TargetError) as error:
        complain(f"dspy-mlflow doctor: {error}")
        return COULD_NOT_LOOK
    if as_json:
        say(json.dumps(diagnosis.to_dict(), indent=2))
    else:
        diagnosis.show()
    return HEALTHY if diagnosis.is_healthy else PROBLEM


def _diagnosis(name: str | None, timeout_s: float) -> Diagnosis:
    from dspy_mlflow_callbacks import autostart  # noqa: PLC0415  (these take seconds, which `run` must not take)
    from dspy_mlflow_callbacks.health import diagnose  # noqa: PLC0415

    if name is None:
        autostart.switch_on()
    program = None if name is None else found(name, "MODULE")
    return diagnose(program, timeout_s=timeout_s)


@contextmanager
def _warnings_kept() -> Iterator[None]:
    """Let this package warn of nothing: what it would warn of is among the findings."""

    def is_worse(record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING

    logger.addFilter(is_worse)
    try:
        yield
    finally:
        logger.removeFilter(is_worse)
