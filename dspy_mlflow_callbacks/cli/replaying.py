"""`dspy-mlflow replay ID` runs a stored trace again and says where it leaves the recording."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from dspy_mlflow_callbacks.cli.printing import complain, say
from dspy_mlflow_callbacks.cli.targets import TargetError, program_of

if TYPE_CHECKING:
    from dspy_mlflow_callbacks.replaying import Replay

EQUAL, DIVERGED, REFUSED = 0, 1, 2


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of `dspy-mlflow`."""
    replay = commands.add_parser(
        "replay",
        help="run a stored trace again on its recorded answers",
        description="Run the program of a stored trace again on the answers that the trace recorded, offline and for "
        "free. Exit status: 0 if it did the same, 1 if it diverged, 2 if it cannot be replayed.",
        allow_abbrev=False,
    )
    replay.add_argument("trace", metavar="ID", help="a trace's id in MLFLOW_TRACKING_URI, or a file of trace.to_json()")
    replay.add_argument(
        "--program",
        metavar="MODULE:ATTRIBUTE",
        help="the program, or a function without arguments that makes it; the module is looked for in this folder "
        "too. Without it the logged model that the trace names is loaded.",
    )
    replay.add_argument("--mode", choices=("strict", "lenient", "live"), default="strict", help="default: strict")
    replay.add_argument("--tools", choices=("recorded", "live"), default="recorded", help="default: recorded")
    replay.add_argument("--from-span", metavar="SPAN", help="with --mode live: from this id or name on the LM is real")
    replay.add_argument("--spool-dir", metavar="DIR", help="the spool in which it may still wait for its store")
    replay.add_argument("--json", action="store_true", help="print JSON instead of a report")
    replay.set_defaults(does=_replay)


def _replay(said: argparse.Namespace) -> int:
    from dspy_mlflow_callbacks.replaying import ReplayError, replay  # noqa: PLC0415  (seconds, which `run` must not take)

    try:
        program = None if said.program is None else program_of(said.program)
        done = replay(
            said.trace,
            program,
            mode=said.mode,
            tools=said.tools,
            from_span=said.from_span,
            spool_dir=said.spool_dir,
        )
    except (ReplayError, TargetError, ValueError, TypeError) as error:
        complain(f"dspy-mlflow replay: {error}")
        return REFUSED
    say(json.dumps(done.to_dict(), indent=2) if said.json else done.to_markdown().rstrip("\n"))
    return _status(done)


def _status(done: Replay) -> int:
    return EQUAL if done.is_equal else DIVERGED
