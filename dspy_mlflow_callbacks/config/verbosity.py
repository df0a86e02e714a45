"""How much this package's own logger says."""

from __future__ import annotations

import logging

from dspy_mlflow_callbacks.stats import logger

VERBOSITIES = {
    "silent": logging.CRITICAL + 1,
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
}


def set_verbosity(verbosity: str | None) -> None:
    """Let this package's logger say what a configuration asks for; None leaves it alone.

    The logger belongs to the process: of two configurations the last one that asks for something wins.
    """
    if verbosity is not None:
        logger.setLevel(VERBOSITIES[verbosity])


def lets_warn(verbosity: str | None) -> bool:
    """Return whether a configuration lets this package warn; None leaves that to the logger."""
    return verbosity is None or VERBOSITIES[verbosity] <= logging.WARNING
