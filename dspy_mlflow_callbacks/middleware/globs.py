"""Globs over names, as `fnmatch` reads them."""

from __future__ import annotations

import fnmatch
import functools
import re


def matches(name: str, globs: tuple[str, ...]) -> bool:
    """Return whether *name* matches one of *globs*.

    A name may hold brackets, as in `Program.steps[0]`: those of a glob stand for themselves as well as for one of the
    characters between them.
    """
    return _pattern(globs).match(name) is not None


@functools.lru_cache(maxsize=256)
def _pattern(globs: tuple[str, ...]) -> re.Pattern[str]:
    readings = [reading for glob in globs for reading in (glob, glob.replace("[", "[[]"))]
    return re.compile("|".join(fnmatch.translate(reading) for reading in dict.fromkeys(readings)))
