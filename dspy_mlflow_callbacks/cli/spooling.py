"""`dspy-mlflow spool` shows what waits in a spool, delivers it, or writes it to files for other tools."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dspy_mlflow_callbacks.cli.printing import complain, say
from dspy_mlflow_callbacks.config import TracingConfig

if TYPE_CHECKING:
    from dspy_mlflow_callbacks.export.spool.settings import SpoolSettings

DONE, LEFT, COULD_NOT = 0, 1, 2

_EPILOG = (
    "Exit status: 0 if it is done, 1 if traces are left that could not be delivered, 2 if there is no usable spool."
)


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of `dspy-mlflow`."""
    spool = commands.add_parser(
        "spool",
        help="show, deliver or export the traces that wait for their store",
        description="Traces that their store did not take wait in the spool.",
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    actions = spool.add_subparsers(required=True, metavar="action")
    for name, does, what in (
        ("status", _status, "say what waits, and which traces were refused and why"),
        ("flush", _flush, "deliver what waits"),
        ("export", _export, "write what waits to files that OpenTelemetry tools read; it stays in the spool"),
    ):
        action = actions.add_parser(name, help=what, description=what, epilog=_EPILOG, allow_abbrev=False)
        action.add_argument(
            "--spool-dir", help="the folder; default: DSPY_MLFLOW_SPOOL_DIR, or the user's state folder"
        )
        action.add_argument("--json", action="store_true", help="print JSON")
        action.set_defaults(does=_careful, action=does)
        if name == "flush":
            action.add_argument("--dead-letters", action="store_true", help="refused traces too: they are tried again")
        if name == "export":
            action.add_argument("output", type=Path, help="a file of JSON lines, or a folder of protobuf files")
            action.add_argument("--format", choices=("jsonl", "protobuf"), default="jsonl", help="default: jsonl")
            action.add_argument("--dead-letters", action="store_true", help="refused traces too")


def _careful(said: argparse.Namespace) -> int:
    from dspy_mlflow_callbacks.export.spool.errors import SpoolError  # noqa: PLC0415  (MLflow takes seconds, not `run`)

    try:
        settings = _settings(said.spool_dir)
        return int(said.action(said, settings))
    except (SpoolError, OSError) as error:
        complain(f"dspy-mlflow spool: {error}")
        return COULD_NOT


def _settings(folder: str | None) -> SpoolSettings:
    from dspy_mlflow_callbacks.export.spool.errors import SpoolError  # noqa: PLC0415

    config = TracingConfig.from_env() if folder is None else TracingConfig.from_env(spool_dir=folder)
    settings = config.spool()
    if settings is None:
        message = "there is none: DSPY_MLFLOW_SPOOL_DIR is empty; --spool-dir names one"
        raise SpoolError(message)
    if not os.path.isdir(settings.folder):  # noqa: PTH112  (a text)
        message = f"there is no folder {settings.folder}: nothing has been spooled there"
        raise SpoolError(message)
    return settings


def _status(said: argparse.Namespace, settings: SpoolSettings) -> int:
    from dspy_mlflow_callbacks.export.spool.reading import status  # noqa: PLC0415

    found = status(settings)
    say(json.dumps(found.to_dict(), indent=2) if said.json else found.to_text())
    return DONE


def _flush(said: argparse.Namespace, settings: SpoolSettings) -> int:
    from dspy_mlflow_callbacks.export.spool.reading import status  # noqa: PLC0415
    from dspy_mlflow_callbacks.export.spool_flush import flush  # noqa: PLC0415

    delivered = flush(settings, dead_letters=said.dead_letters)
    left = status(settings)
    done: dict[str, Any] = {"delivered": delivered, "left": left.traces, "dead_letters": left.dead_traces}
    if said.json:
        say(json.dumps(done, indent=2))
    else:
        say(f"{delivered} traces delivered, {left.traces} left, {left.dead_traces} refused.")
    return LEFT if left.traces or (said.dead_letters and left.dead_traces) else DONE


def _export(said: argparse.Namespace, settings: SpoolSettings) -> int:
    from dspy_mlflow_callbacks.export.spool.exporting import write_jsonl, write_protobuf  # noqa: PLC0415

    write = write_jsonl if said.format == "jsonl" else write_protobuf
    count = write(settings, said.output, dead_letters=said.dead_letters)
    text = f"{count} traces written to {said.output}."
    say(json.dumps({"written": count, "output": str(said.output)}, indent=2) if said.json else text)
    return DONE
