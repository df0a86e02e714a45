"""`dspy-mlflow completion bash` prints what makes a shell complete the command."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete

from dspy_mlflow_callbacks.cli.commands import COMPLETE, NAME, commands

_CLASSES = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@click.command("completion")
@click.argument("shell", type=click.Choice(tuple(_CLASSES)))
def command(shell: str) -> int:
    """Print the script that makes a shell complete the command: its commands, their options and what these may be.

    bash: eval "$(dspy-mlflow completion bash)" in ~/.bashrc; zsh: likewise in ~/.zshrc; fish: dspy-mlflow completion
    fish > ~/.config/fish/completions/dspy-mlflow.fish
    """
    click.echo(_CLASSES[shell](commands, {}, NAME, COMPLETE).source())
    return 0
