"""`dspy-mlflow run app.py` traces a program that does not mention this package."""

from __future__ import annotations

import os
import site
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import attrs
import click

from dspy_mlflow_callbacks import autostart
from dspy_mlflow_callbacks.config import OPTIONS, default_text, variable_of

_STARTUP = Path(autostart.__file__).parent / "startup"


class _Run(click.Command):
    """Leaves to Python what is Python's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read our own options; the rest is the parameter `target`."""
        own, target = split(args)
        rest = super().parse_args(ctx, own)
        ctx.params["target"] = target
        return rest

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Return what the usage says behind the name."""
        return ["[--OPTION VALUE ...] (script | -m module) [arguments]"]


def _option_of(option: attrs.Attribute[Any]) -> click.Option:
    flag = f"--{option.name.replace('_', '-')}"
    return click.Option([flag, option.name], callback=_checked(option), metavar="VALUE", help=_help(option))


def _checked(option: attrs.Attribute[Any]) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    def checked(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
        try:
            if text is not None:
                option.metadata["check"](option.metadata["read"](text))
        except (TypeError, ValueError) as error:
            message = f"{text!r}: {error}. Allowed: {option.metadata['allowed']}."
            raise click.BadParameter(message) from None
        return text

    return checked


def _run(target: list[str], **said: str | None) -> NoReturn:
    if not target:
        message = "say which script to run, or which module with -m"
        raise click.UsageError(message)
    variables = {variable_of(name): value for name, value in said.items() if value is not None}
    _become([sys.executable, *_flags(), *target], {**os.environ, **variables, **_switched_on()})


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return what is for us and what is Python's: from the first argument on that is none of our options.

    click would have to be told where to stop, and each Python's has its own way with `--` there.
    """
    end = 0
    while end < len(arguments) and arguments[end].startswith(("--", "-h")):
        has_value = "=" in arguments[end] or arguments[end] in ("--help", "-h")
        end += 1 if has_value else 2
    return arguments[:end], arguments[end:]


def _flags() -> list[str]:
    """Return the options that this Python was started with, such as `-X dev`; `-m` and what stands behind is ours."""
    flags = sys.orig_argv[1 : -len(sys.argv)]
    return flags[:-1] if flags[-1:] == ["-m"] else flags


def _help(option: attrs.Attribute[Any]) -> str:
    return f"{option.metadata['doc']} Allowed: {option.metadata['allowed']}. Default: {default_text(option)}."


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


command = _Run(
    "run",
    params=[_option_of(option) for option in OPTIONS.values()],
    callback=_run,
    help="Run a Python program as `python script` or `python -m module` would, with its DSPy calls traced; so are "
    "those of the Python processes that it starts. An option goes before its variable DSPY_MLFLOW_<OPTION>.",
)
