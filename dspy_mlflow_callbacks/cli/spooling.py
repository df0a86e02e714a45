"""`dspy-mlflow spool` shows what waits in a spool, delivers it, or writes it to files for other tools."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dspy_mlflow_callbacks.cli.printing import complain, say
from dspy_mlflow_callbacks.config import TracingConfig

if TYPE_CHECKING:
    from dspy_mlflow_callbacks.export.spool.settings import SpoolSettings

DONE, LEFT, COULD_NOT = 0, 1, 2

_EPILOG = (
    "Exit status: 0 if it is done, 1 if traces are left that could not be delivered, 2 if there is no usable spool."
)
_FOLDER = click.option("--spool-dir", help="the folder; default: DSPY_MLFLOW_SPOOL_DIR, or the user's state folder")
_JSON = click.option("--json", "as_json", is_flag=True, help="print JSON")


@click.group("spool", epilog=_EPILOG, no_args_is_help=False)
def command() -> None:
    """Show, deliver or export the traces that their store did not take: they wait in the spool."""


@command.command("status", epilog=_EPILOG)
@_FOLDER
@_JSON
def _status_command(spool_dir: str | None, as_json: bool) -> int:  # noqa: FBT001  (click gives names)
    """Say what waits, and which traces were refused and why."""
    return _careful(spool_dir, lambda settings: _status(settings, as_json=as_json))


@command.command("flush", epilog=_EPILOG)
@_FOLDER
@_JSON
@click.option("--dead-letters", is_flag=True, help="refused traces too: they are tried again")
def _flush_command(spool_dir: str | None, as_json: bool, dead_letters: bool) -> int:  # noqa: FBT001  (click gives names)
    """Deliver what waits."""
    return _careful(spool_dir, lambda settings: _flush(settings, as_json=as_json, dead_letters=dead_letters))


@command.command("export", epilog=_EPILOG)
@click.argument("output", type=click.Path(path_type=Path))
@_FOLDER
@_JSON
@click.option("--format", "form", type=click.Choice(("jsonl", "protobuf")), default="jsonl", help="default: jsonl")
@click.option("--dead-letters", is_flag=True, help="refused traces too")
def _export_command(output: Path, spool_dir: str | None, **options: Any) -> int:
    """Write what waits to files that OpenTelemetry tools read; it stays in the spool.

    OUTPUT is a file of JSON lines, or a folder of protobuf files.
    """
    return _careful(spool_dir, lambda settings: _export(settings, output, **options))


def _careful(spool_dir: str | None, act: Callable[[SpoolSettings], int]) -> int:
    from dspy_mlflow_callbacks.export.spool.errors import SpoolError  # noqa: PLC0415  (MLflow takes seconds, not `run`)

    try:
        return act(_settings(spool_dir))
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


def _status(settings: SpoolSettings, *, as_json: bool) -> int:
    from dspy_mlflow_callbacks.export.spool.reading import status  # noqa: PLC0415

    found = status(settings)
    say(json.dumps(found.to_dict(), indent=2) if as_json else found.to_text())
    return DONE


def _flush(settings: SpoolSettings, *, as_json: bool, dead_letters: bool) -> int:
    from dspy_mlflow_callbacks.export.spool.reading import status  # noqa: PLC0415
    from dspy_mlflow_callbacks.export.spool_flush import flush  # noqa: PLC0415

    delivered = flush(settings, dead_letters=dead_letters)
    left = status(settings)
    done: dict[str, Any] = {"delivered": delivered, "left": left.traces, "dead_letters": left.dead_traces}
    if as_json:
        say(json.dumps(done, indent=2))
    else:
        say(f"{delivered} traces delivered, {left.traces} left, {left.dead_traces} refused.")
    return LEFT if left.traces or (dead_letters and left.dead_traces) else DONE


def _export(settings: SpoolSettings, output: Path, *, form: str, as_json: bool, dead_letters: bool) -> int:
    from dspy_mlflow_callbacks.export.spool.exporting import write_jsonl, write_protobuf  # noqa: PLC0415

    write = write_jsonl if form == "jsonl" else write_protobuf
    count = write(settings, output, dead_letters=dead_letters)
    text = f"{count} traces written to {output}."
    say(json.dumps({"written": count, "output": str(output)}, indent=2) if as_json else text)
    return DONE
