"""Where the spool is, and how much it holds."""

from __future__ import annotations

import os
from pathlib import Path

import attrs

FILE = "spool.db"
"""The database in the spool's folder."""

FSYNC = "fsync"
"""`durable` that waits for the disk."""


@attrs.frozen(kw_only=True)
class SpoolSettings:
    """What a callback says of its spool.

    Attributes:
        folder: The folder of the database.
        max_bytes: The most bytes that traces in it hold; the oldest make room.
        max_age_s: After how many seconds a trace in it is dropped.
        durable: Whether each trace is written there before its call returns; `fsync` also onto the disk itself.
    """

    folder: str
    max_bytes: int = 256 * 1024 * 1024
    max_age_s: float = 7 * 24 * 3600.0
    durable: bool | str = False


def default_folder() -> str:
    """Return the folder of a spool that nobody has named, by the XDG Base Directory Specification; empty if none."""
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    if not state.is_absolute():  # the specification: such a one is to be ignored
        try:
            state = Path.home() / ".local" / "state"
        except RuntimeError:  # nobody's process
            return ""
    return str(state / "dspy_mlflow_callbacks" / "spool")
