"""The names that the user says secrets stand under: globs of keys, and signature fields."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence

_LITERAL = re.compile(r"[a-z0-9_.-]+")


class OwnNames:
    """Names that the user says, in any case.

    Args:
        keys: Globs of names.
        fields: Names of signature fields.

    Attributes:
        literals: What each such name has in it, in lower case: one of these; "" is in every text.
    """

    def __init__(self, keys: Sequence[str], fields: Sequence[str]) -> None:
        self._globs = [re.compile(fnmatch.translate(key.lower())) for key in keys]
        self.fields = frozenset(field.lower() for field in fields)
        self.literals = tuple({max(_LITERAL.findall(key.lower()), key=len, default="") for key in (*keys, *fields)})

    def has(self, name: str) -> bool:
        """Return whether the user says that secrets stand under *name*."""
        lowered = name.lower()
        return lowered in self.fields or any(glob.match(lowered) for glob in self._globs)

    def has_field(self, name: str) -> bool:
        """Return whether *name* is a signature field's."""
        return name.lower() in self.fields

    def may_be_in(self, text: str) -> bool:
        """Return whether such a name can be in *text*."""
        if not self.literals:
            return False
        lowered = text.lower()
        return any(literal in lowered for literal in self.literals)
