"""Programs that an argument of a command names."""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any


class TargetError(Exception):
    """What an argument names is not there."""


def program_of(name: str) -> Any:
    """Return the program that `--program MODULE:ATTRIBUTE` names, or that the function there makes.

    Raises:
        TargetError: if it is not there, or its module raises.
    """
    module, separator, attribute = name.partition(":")
    if not (module and separator and attribute):
        message = f"--program must be MODULE:ATTRIBUTE, such as app:program, got {name!r}"
        raise TargetError(message)
    return found(name, "--program")


def found(name: str, argument: str) -> Any:
    """Return what *name* says: `MODULE:ATTRIBUTE`, or a module alone, which is imported as if no program.

    Args:
        name: What the argument said.
        argument: Its name, for the error.

    Raises:
        TargetError: if it is not there, or its module raises.
    """
    module, _, attribute = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))  # where `python -m` looks too
    try:
        there: Any = importlib.import_module(module)
        for part in attribute.split(".") if attribute else ():
            there = getattr(there, part)
        return there() if inspect.isfunction(there) or inspect.isclass(there) else there
    except Exception as error:  # whatever the user's module raises
        message = f"{argument} {name}: {type(error).__name__}: {error}"
        raise TargetError(message) from error
