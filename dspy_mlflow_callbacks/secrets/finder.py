"""Taking secrets out of JSON values and texts."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from dspy_mlflow_callbacks.secrets import enclosed, named
from dspy_mlflow_callbacks.secrets.hints import IN_JSON, IN_TEXTS, Hints
from dspy_mlflow_callbacks.secrets.names import is_secret_name
from dspy_mlflow_callbacks.secrets.own_names import OwnNames
from dspy_mlflow_callbacks.secrets.shapes import REDACTED
from dspy_mlflow_callbacks.secrets.walk import Walk

_KNOWN_KEYS = 4096


class Secrets:
    """What is to be taken out: credentials, by their names and by their look, and what the user says.

    Args:
        keys: Globs of further names under which secrets stand.
        patterns: Further regular expressions for secrets in any text, and in numbers.
        fields: Names of signature fields.
        function: Is given each text, without what is known for a secret, and returns what may stay.

    Attributes:
        reads_numbers: Whether a number can be a secret.
        harmless_keys: Keys that are known to stay, with what stands under them.
    """

    def __init__(
        self,
        *,
        keys: Sequence[str] = (),
        patterns: Sequence[re.Pattern[str]] = (),
        fields: Sequence[str] = (),
        function: Callable[[str], str] | None = None,
    ) -> None:
        self._own = OwnNames(keys, fields)
        self._patterns = tuple(patterns)
        self._function = function
        self._asks_each_text = bool(patterns) or function is not None or "" in self._own.literals
        self._known_keys: dict[str, tuple[bool, str]] = {}
        self.reads_numbers = bool(patterns)
        self.harmless_keys: set[str] = set()

    def is_name(self, name: str) -> bool:
        """Return whether what stands under *name* is to be taken out."""
        return is_secret_name(name) or self._own.has(name)

    def key(self, name: str) -> tuple[bool, str]:
        """Return whether a key is a secret's name, and the key without what is secret in itself."""
        known = self._known_keys.get(name)
        if known is None:
            if len(self._known_keys) >= _KNOWN_KEYS:
                self._known_keys.clear()
                self.harmless_keys.clear()
            self._known_keys[name] = known = self.is_name(name), self._without_known(name)
            if known == (False, name):
                self.harmless_keys.add(name)
        return known

    def clears(self, text: str) -> bool:
        """Return whether *text*, JSON or not, or any number of such texts, has no secret in it."""
        return not (self._asks_each_text or IN_JSON(text) or self._own.may_be_in(text))

    def clears_texts(self, text: str) -> bool:
        """Return whether the texts in a JSON text have no secret in them; there can be one under a key."""
        return not (self._asks_each_text or IN_TEXTS(text) or self._own.may_be_in(text))

    def without_secrets(self, value: Any) -> Any:
        """Take secrets out of a JSON value, in its own dicts and lists at any depth, and return it."""
        return Walk(self).through(value)

    def json_without_secrets(self, text: str) -> str | None:
        """Return a JSON text without secrets, *text* itself if it has none; None if it is none that orjson writes."""
        try:
            value = orjson.loads(text)
            walk = Walk(self)
            value = walk.through(value, text) if self._asks_each_text else walk.through_parts(value, text)
            return orjson.dumps(value).decode() if walk.has_changed else text
        except (orjson.JSONDecodeError, orjson.JSONEncodeError, RecursionError):  # no JSON, or nested too deep
            return None

    def text_without_secrets(self, text: str, hints: Hints | None = None) -> str:
        """Return *text* without secrets, *text* itself if it has none; one that is JSON stays so.

        Args:
            text: Any text.
            hints: What a longer text that it is from can have in it.
        """
        return self._with_function(self._without_known(text, hints))

    def _without_known(self, text: str, hints: Hints | None = None) -> str:
        if IN_JSON(text) or self._own.may_be_in(text):
            text = self._redacted(text, hints or Hints.of(text))
        for pattern in self._patterns:
            text = pattern.sub(REDACTED, text)
        return text

    def _redacted(self, text: str, hints: Hints) -> str:
        if text.lstrip()[:1] in ("{", "["):
            result = self.json_without_secrets(text)
            if result is not None:
                return result
        for shape in hints.shapes:
            text = shape.redact(text)
        return self._without_named(text, hints)

    def _without_named(self, text: str, hints: Hints) -> str:
        own = self._own
        if not (hints.has_names or own.literals):
            return text
        # First what has clear ends.
        text = enclosed.without_sections(text, self.is_name)
        text = enclosed.without_elements(text, self.is_name)
        if own.fields:
            text = enclosed.without_elements(text, own.has_field, to_the_end=True)
        text = named.without_named_values(text, hints.literals, self.is_name)
        text = named.without_named_values(text, own.literals, own.has, whole_lines=own.fields)
        return named.without_flags(text, self.is_name)

    def _with_function(self, text: str) -> str:
        if self._function is None:
            return text
        result = self._function(text)
        if not isinstance(result, str):
            message = f"function must return a text, got {type(result).__name__}"
            raise TypeError(message)
        return result

    def number_without_secrets(self, number: float) -> Any:
        """Return *number*, unless a pattern of the user's is for it."""
        return REDACTED if any(pattern.search(str(number)) for pattern in self._patterns) else number
