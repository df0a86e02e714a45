"""`dspy-mlflow completion bash` prints what makes a shell complete the command."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from dspy_mlflow_callbacks.cli.commands import COMPLETE, NAME, commands

_SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(_SHELLS))
def command(shell: str) -> int:
    """Print the script that makes a shell complete the command: its commands, their options and what these may be.

    bash: eval "$(dspy-mlflow completion bash)" in ~/.bashrc; zsh: likewise in ~/.zshrc; fish: dspy-mlflow completion
    fish > ~/.config/fish/completions/dspy-mlflow.fish
    """
    made = get_completion_class(shell)
    assert made is not None  # noqa: S101  (click has them all)
    click.echo(made(commands, {}, NAME, COMPLETE).source())
    return 0
