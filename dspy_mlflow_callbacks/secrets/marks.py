"""Telling at a glance whether there can be a secret in a text.

Almost no text has one, so this is what a call pays for. Python's `re` reads some 100 characters a microsecond; the Rust
engine that pydantic brings along reads some 10,000, and in linear time whatever the text.
"""

from __future__ import annotations

from pydantic_core import SchemaValidator, core_schema


class Mark:
    """A regular expression, in the syntax of Rust's `regex`, that is asked for its presence only.

    Args:
        pattern: The expression; it has no look-around.
    """

    def __init__(self, pattern: str) -> None:
        schema = core_schema.str_schema(pattern=pattern, regex_engine="rust-regex")
        self._is_match = SchemaValidator(schema).isinstance_python

    def __call__(self, text: str) -> bool:
        """Return whether the expression matches somewhere in *text*; True where UTF-8 cannot hold the text."""
        return self._is_match(text) or (not text.isascii() and not _is_encodable(text))


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
