"""`dspy-mlflow run app.py` traces a program that does not mention this package."""

from __future__ import annotations

import argparse
import os
import site
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import attrs

from dspy_mlflow_callbacks import autostart
from dspy_mlflow_callbacks.config import OPTIONS, default_text, variable_of

_STARTUP = Path(autostart.__file__).parent / "startup"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of `dspy-mlflow`."""
    run = commands.add_parser(
        "run",
        usage="%(prog)s [--OPTION VALUE ...] (script | -m module) [arguments]",
        help="run a Python program with its DSPy calls traced",
        description="Run a Python program as `python script` or `python -m module` would, with its DSPy calls traced; "
        "so are those of the Python processes that it starts. An option goes before its variable DSPY_MLFLOW_<OPTION>.",
        allow_abbrev=False,
    )
    run.set_defaults(does=_run, refuse=run.error)
    for option in OPTIONS.values():
        flag = f"--{option.name.replace('_', '-')}"
        run.add_argument(flag, dest=option.name, type=_checked(option), metavar="VALUE", help=_help(option))


def _run(said: argparse.Namespace) -> NoReturn:
    if not said.target:
        said.refuse("say which script to run, or which module with -m")
    variables = {variable_of(name): getattr(said, name) for name in OPTIONS if getattr(said, name) is not None}
    _become([sys.executable, *_flags(), *said.target], {**os.environ, **variables, **_switched_on()})


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return what is for us and what is Python's: behind `run`, from the first argument on that is none of our options.

    argparse would have to be told where to stop, and each Python's has its own way with `--` there.
    """
    end = 1 if arguments[:1] == ["run"] else len(arguments)
    while end < len(arguments) and arguments[end].startswith(("--", "-h")):
        has_value = "=" in arguments[end] or arguments[end] in ("--help", "-h")
        end += 1 if has_value else 2
    return arguments[:end], arguments[end:]


def _flags() -> list[str]:
    """Return the options that this Python was started with, such as `-X dev`; `-m` and what stands behind is ours."""
    flags = sys.orig_argv[1 : -len(sys.argv)]
    return flags[:-1] if flags[-1:] == ["-m"] else flags


def _checked(option: attrs.Attribute[Any]) -> Callable[[str], str]:
    def checked(text: str) -> str:
        try:
            option.metadata["check"](option.metadata["read"](text))
        except (TypeError, ValueError) as error:
            message = f"{text!r}: {error}. Allowed: {option.metadata['allowed']}."
            raise argparse.ArgumentTypeError(message) from None
        return text

    return checked


def _help(option: attrs.Attribute[Any]) -> str:
    text = f"{option.metadata['doc']} Allowed: {option.metadata['allowed']}. Default: {default_text(option)}."
    return text.replace("%", "%%")


def _switched_on() -> dict[str, str]:
    """Return the variables that make a Python trace from its start on, and the Pythons that it starts."""
    variables = {autostart.VARIABLE: "1"}
    folders = [*site.getsitepackages(), site.getusersitepackages()]
    if not any(Path(folder, "dspy_mlflow_callbacks.pth").exists() for folder in folders):
        before = os.environ.get("PYTHONPATH")
        variables["PYTHONPATH"] = os.pathsep.join([str(_STARTUP), *([before] if before else [])])
    return variables


def _become(command: list[str], environment: dict[str, str]) -> NoReturn:
    """Run *command* in place of this process: signals, exit status, standard input and the process id are its own."""
    sys.stdout.flush()
    if os.name == "nt":  # pragma: no cover  (Windows: there `exec` returns to the shell before the program ends)
        sys.exit(subprocess.run(command, env=environment, check=False).returncode)  # noqa: S603  (the user's command)
    os.execve(command[0], command, environment)  # noqa: S606  (the user's command)
