"""Who holds rows of the spool: a process, as long as it lives and renews its lease."""

from __future__ import annotations

import os
import platform
import uuid

LEASE_SECONDS = 300.0
"""For how long a row is its owner's alone; an owner on this host that is dead loses it at once."""


def new_owner() -> str:
    """Return a name for this process as an owner."""
    return f"{uuid.uuid4().hex}:{os.getpid()}:{platform.node()}"


def is_dead(owner: str) -> bool:
    """Return whether an owner is known to be gone: a process of this host that is not there."""
    _, _, rest = owner.partition(":")
    pid, _, host = rest.partition(":")
    if os.name != "posix" or host != platform.node() or not pid.isdecimal():  # on Windows signal 0 would end it
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):  # somebody else's, or no process id at all
        return False
    return False
