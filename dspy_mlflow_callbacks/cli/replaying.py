"""`dspy-mlflow replay ID` runs a stored trace again and says where it leaves the recording."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from dspy_mlflow_callbacks.cli.printing import complain, say
from dspy_mlflow_callbacks.cli.targets import TargetError, program_of

if TYPE_CHECKING:
    from dspy_mlflow_callbacks.replaying import Replay

EQUAL, DIVERGED, REFUSED = 0, 1, 2


@click.command("replay")
@click.argument("trace", metavar="ID")
@click.option(
    "--program",
    metavar="MODULE:ATTRIBUTE",
    help="the program, or a function without arguments that makes it; the module is looked for in this folder too. "
    "Without it the logged model that the trace names is loaded.",
)
@click.option("--mode", type=click.Choice(("strict", "lenient", "live")), default="strict", help="default: strict")
@click.option("--tools", type=click.Choice(("recorded", "live")), default="recorded", help="default: recorded")
@click.option("--from-span", metavar="SPAN", help="with --mode live: from this id or name on the LM is real")
@click.option("--spool-dir", metavar="DIR", help="the spool in which it may still wait for its store")
@click.option("--json", "as_json", is_flag=True, help="print JSON instead of a report")
def command(trace: str, program: str | None, as_json: bool, **options: Any) -> int:  # noqa: FBT001  (click gives names)
    """Run the program of a stored trace again on the answers that the trace recorded, offline and for free.

    ID is a trace's id in MLFLOW_TRACKING_URI, or a file of trace.to_json(). Exit status: 0 if it did the same, 1 if it
    diverged, 2 if it cannot be replayed.
    """
    from dspy_mlflow_callbacks.replaying import ReplayError, replay  # noqa: PLC0415  (seconds, which `run` must not take)

    try:
        done = replay(trace, None if program is None else program_of(program), **options)
    except (ReplayError, TargetError, ValueError, TypeError) as error:
        complain(f"dspy-mlflow replay: {error}")
        return REFUSED
    say(json.dumps(done.to_dict(), indent=2) if as_json else done.to_markdown().rstrip("\n"))
    return _status(done)


def _status(done: Replay) -> int:
    return EQUAL if done.is_equal else DIVERGED
