"""How a spool fails."""

from __future__ import annotations

import sqlite3

# What SQLite says where bytes of the file are not what it wrote. Its codes are known from Python 3.11 on.
_DAMAGE = ("malformed", "not a database", "no such table", "no such column", "has no column", "checksum")


class SpoolError(Exception):
    """The spool cannot be used now: a full or read-only disk, a file in the folder's place, another who locks it."""


class DamagedError(sqlite3.DatabaseError):
    """A row is not what was written: its checksum tells."""


def is_damage(error: Exception) -> bool:
    """Return whether the file is damaged, so that trying again is of no use."""
    return type(error) in (sqlite3.DatabaseError, DamagedError) or any(each in str(error) for each in _DAMAGE)
