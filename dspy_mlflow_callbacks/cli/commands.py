"""The commands of `dspy-mlflow`, each read from its file only when it is asked for."""

from __future__ import annotations

import importlib
import sys

import click

import dspy_mlflow_callbacks

NAME = "dspy-mlflow"
COMPLETE = "_DSPY_MLFLOW_COMPLETE"
"""The variable by which a shell asks for completions."""

# Each file has `command`. What it is for stands here, so that `--help` need not read them all.
_COMMANDS = {
    "run": ("running", "run a Python program with its DSPy calls traced"),
    "list": ("listing", "print the newest traces, a row for each"),
    "show": ("showing", "print a trace as a tree, with its prompts if asked for"),
    "tail": ("tailing", "print traces as they are stored"),
    "compare": ("comparing", "compare two traces, or two versions of a program"),
    "replay": ("replaying", "run a stored trace again on its recorded answers"),
    "report": ("reporting", "make a page of what traces say together"),
    "export": ("exporting", "write traces to a file of JSON lines or OTLP"),
    "import": ("importing", "store the traces of such a file"),
    "spool": ("spooling", "show, deliver or export the traces that wait for their store"),
    "doctor": ("doctoring", "say what is in force and what is wrong with it"),
    "demo": ("demonstrating", "trace a program that needs neither key nor network"),
    "completion": ("completing", "print what makes a shell complete the command"),
}


class _Commands(click.Group):
    """A group whose commands are in files of their own."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of `--help`."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; None if there is none of that name."""
        if cmd_name not in _COMMANDS:
            return None
        file, _ = _COMMANDS[cmd_name]
        command: click.Command = importlib.import_module(f"dspy_mlflow_callbacks.cli.{file}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the names with what they are for."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, what) for name, (_, what) in _COMMANDS.items()])


def _print_version(ctx: click.Context, _: click.Parameter, is_asked: bool) -> None:  # noqa: FBT001  (click's signature)
    if is_asked and not ctx.resilient_parsing:
        click.echo(f"{NAME} {dspy_mlflow_callbacks.__version__}")
        ctx.exit()


@click.group(
    NAME,
    cls=_Commands,
    help="MLflow traces of DSPy programs.",
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 200},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def commands() -> None:
    """Do nothing: the commands do."""


@commands.result_callback()
def _exit(status: int) -> None:
    """Let what a command returns be the exit status."""
    sys.exit(status)
