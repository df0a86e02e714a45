"""Taking secrets out of JSON values and texts."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import orjson

from dspy_mlflow_callbacks.secrets import named
from dspy_mlflow_callbacks.secrets.marks import Mark
from dspy_mlflow_callbacks.secrets.names import KEYS, LITERALS, SPACE, VALUES, is_secret_name
from dspy_mlflow_callbacks.secrets.shapes import REDACTED, SHAPES, SHAPES_PATTERN, Shape

_KNOWN_NAMES = 4096

# JSON Schema: a schema of a secret says nothing secret but for examples of it.
_SCHEMA_TYPES = frozenset({"string", "number", "integer", "boolean", "array", "object", "null", "str", "int", "float"})
_SCHEMA_WORDS = frozenset(
    {
        "type", "description", "title", "desc", "prefix", "format", "anyOf", "oneOf", "allOf", "items",
        "properties", "required", "additionalProperties", "minLength", "maxLength", "minimum", "maximum", "pattern",
        "nullable", "$ref",
    }
)  # fmt: skip
_SCHEMA_VALUES = frozenset({"default", "enum", "const", "example", "examples"})

_LITERAL = re.compile(r"[a-z0-9_.-]+")

_ANYTHING = Mark(f"{SHAPES_PATTERN}|{KEYS}|{VALUES}")
_IN_TEXT = Mark(f"{SHAPES_PATTERN}|{VALUES}")
_LITERAL_MARKS = {
    literal: Mark(rf"(?i-u:{literal})[A-Za-z0-9_.-]*(?:\\*[\"'`])?\]?{SPACE}*[:=]") for literal in LITERALS
}

# A few literals at a time are found fastest.
_GROUP = 8
_SHAPE_GROUPS = tuple(
    (Mark("|".join(f"(?:{shape.pattern})" for shape in group)), group)
    for group in (SHAPES[start : start + _GROUP] for start in range(0, len(SHAPES), _GROUP))
)

# Texts that are looked at as one: most of them have nothing.
_BLOCK = 32


@attrs.frozen
class _Hints:
    """What a text as a whole can have in it, so that its parts are not searched for all there is."""

    shapes: tuple[Shape, ...]
    literals: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> _Hints:
        return cls(
            tuple(shape for mark, shapes in _SHAPE_GROUPS if mark(text) for shape in shapes if shape.mark(text)),
            tuple(literal for literal, mark in _LITERAL_MARKS.items() if mark(text)),
        )


class Secrets:
    """What is to be taken out: credentials, by their names and by their look, and what the user says.

    Args:
        keys: Globs of further names under which secrets stand.
        patterns: Further regular expressions for secrets in any text, and in numbers.
        fields: Names of signature fields.
        function: Is given each text, without what is known for a secret, and returns what may stay.
    """

    def __init__(
        self,
        *,
        keys: Sequence[str] = (),
        patterns: Sequence[re.Pattern[str]] = (),
        fields: Sequence[str] = (),
        function: Callable[[str], str] | None = None,
    ) -> None:
        self._globs = [re.compile(fnmatch.translate(key.lower())) for key in keys]
        self._fields = frozenset(field.lower() for field in fields)
        self._patterns = tuple(patterns)
        self.has_patterns = bool(self._patterns)
        self._function = function
        # What the names that the user says have in them; "" is in every text.
        self._literals = tuple({max(_LITERAL.findall(key.lower()), key=len, default="") for key in (*keys, *fields)})
        self._asks_each_text = bool(patterns) or function is not None or "" in self._literals
        self._known: dict[str, tuple[bool, str]] = {}
        self.harmless_keys: set[str] = set()

    def is_name(self, name: str) -> bool:
        """Return whether what stands under *name* is to be taken out."""
        return self.key(name)[0]

    def key(self, name: str) -> tuple[bool, str]:
        """Return whether a key is a secret's name, and the key without what is secret in itself."""
        known = self._known.get(name)
        if known is None:
            if len(self._known) >= _KNOWN_NAMES:
                self._known.clear()
                self.harmless_keys.clear()
            is_secret = is_secret_name(name) or self._is_users_name(name)
            self._known[name] = known = is_secret, self._without_known(name)
            if not is_secret and known[1] == name:
                self.harmless_keys.add(name)
        return known

    def _is_users_name(self, name: str) -> bool:
        lowered = name.lower()
        return lowered in self._fields or any(glob.match(lowered) for glob in self._globs)

    def _is_field(self, name: str) -> bool:
        return name.lower() in self._fields

    def clears(self, text: str) -> bool:
        """Return whether *text*, JSON or not, or any number of such texts, has no secret in it."""
        return not (self._asks_each_text or _ANYTHING(text) or self._has_literal(text))

    def _has_literal(self, text: str) -> bool:
        if not self._literals:
            return False
        lowered = text.lower()
        return any(literal in lowered for literal in self._literals)

    def without_secrets(self, value: Any) -> Any:
        """Take secrets out of a JSON value, in its own dicts and lists at any depth, and return it."""
        walk = _Walk(self)
        whole = [value]
        walk.through(whole)
        walk.finish(None)
        return whole[0]

    def json_without_secrets(self, text: str) -> str | None:
        """Return a JSON text without secrets, *text* itself if it has none; None if it is no JSON."""
        try:
            whole = [orjson.loads(text)]
        except orjson.JSONDecodeError:
            return None
        # A secret's name for a key is seen without reading the texts.
        walk = _Walk(self, reads_texts=self._asks_each_text or _IN_TEXT(text) or self._has_literal(text))
        walk.through(whole)
        walk.finish(text)
        return orjson.dumps(whole[0]).decode() if walk.has_changed else text

    def text_without_secrets(self, text: str, hints: _Hints | None = None) -> str:
        """Return *text* without secrets, *text* itself if it has none; one that is JSON stays so.

        Args:
            text: Any text.
            hints: What a longer text that it is from can have in it.
        """
        return self._with_function(self._without_known(text, hints))

    def _without_known(self, text: str, hints: _Hints | None = None) -> str:
        if _ANYTHING(text) or self._has_literal(text):
            text = self._redacted(text, hints or _Hints.of(text))
        for pattern in self._patterns:
            text = pattern.sub(REDACTED, text)
        return text

    def _redacted(self, text: str, hints: _Hints) -> str:
        if text.lstrip()[:1] in ("{", "["):
            result = self.json_without_secrets(text)
            if result is not None:
                return result
        for shape in hints.shapes:
            text = shape.redact(text)
        return self._without_named(text, hints)

    def _without_named(self, text: str, hints: _Hints) -> str:
        # First what has clear ends.
        if "[[ ## " in text:
            text = named.without_sections(text, self.is_name)
        if "</" in text:
            text = named.without_elements(text, self.is_name)
        if self._fields and "<" in text:
            text = named.without_elements(text, self._is_field, to_the_end=True)
        lowered = text.lower()
        for literal in hints.literals:
            if literal in lowered:
                text = named.without_named_values(text, literal, self.is_name)
        for literal in self._literals:
            text = named.without_named_values(text, literal, self._is_users_name, whole_lines=literal in self._fields)
        return named.without_flags(text, self.is_name) if "--" in text else text

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


class _Walk:
    """One way through a JSON value, which is changed in place; its texts are looked at together in the end.

    Args:
        secrets: What is to be taken out.
        reads_texts: Whether there can be secrets in texts.
    """

    def __init__(self, secrets: Secrets, *, reads_texts: bool = True) -> None:
        self._secrets = secrets
        self._reads_texts = reads_texts
        self._reads_numbers = secrets.has_patterns
        self._texts: list[tuple[str, Any, Any]] = []  # with the dict or list that each stands in, and where
        self.has_changed = False

    def through(self, container: Any) -> None:
        """Go through a dict or list."""
        if type(container) is dict:
            self._through_dict(container)
        else:
            for index, item in enumerate(container):
                self._meet(item, container, index)

    def _through_dict(self, container: dict[str, Any]) -> None:
        harmless = self._secrets.harmless_keys
        for key, item in container.items():
            if key in harmless:
                if type(item) is str:
                    if self._reads_texts:
                        self._texts.append((item, container, key))
                    continue
            else:
                is_secret, shown = self._secrets.key(key)
                if shown != key:
                    self._rename_keys(container)
                    self._through_dict(container)
                    return
                if is_secret and item is not None:
                    if not _is_schema(item):
                        self._put(container, key, REDACTED)
                        continue
                    self._hide_examples(item)
            self._meet(item, container, key)

    def _meet(self, item: Any, container: Any, where: Any) -> None:
        kind = type(item)
        if kind is str:
            if self._reads_texts:
                self._texts.append((item, container, where))
        elif kind is dict or kind is list:
            self.through(item)
        elif self._reads_numbers and kind in (int, float):
            shown = self._secrets.number_without_secrets(item)
            if shown is not item:
                self._put(container, where, shown)

    def _hide_examples(self, schema: dict[str, Any]) -> None:
        for key in _SCHEMA_VALUES & schema.keys():
            if schema[key] is not None:
                self._put(schema, key, REDACTED)

    def _rename_keys(self, container: dict[str, Any]) -> None:
        items = [(self._secrets.key(key)[1], item) for key, item in container.items()]
        container.clear()
        container.update(items)
        self.has_changed = True

    def _put(self, container: Any, where: Any, item: Any) -> None:
        container[where] = item
        self.has_changed = True

    def finish(self, whole: str | None) -> None:
        """Take the secrets out of the texts that were met; *whole* is the JSON text that has them all, if known."""
        if not self._texts:
            return
        whole = whole or "\n".join([text for text, _, _ in self._texts])
        hints = None
        for start in range(0, len(self._texts), _BLOCK):
            block = self._texts[start : start + _BLOCK]
            if len(block) == 1 or not self._secrets.clears("\n".join([text for text, _, _ in block])):
                hints = hints or _Hints.of(whole)
                for text, container, where in block:
                    result = self._secrets.text_without_secrets(text, hints)
                    if result != text:
                        self._put(container, where, result)


def _is_schema(value: Any) -> bool:
    """Return whether *value* describes a parameter in place of being its value."""
    if not isinstance(value, dict) or not ({"type", "anyOf", "$ref"} & value.keys()):
        return False
    is_type = "type" not in value or str(value["type"]) in _SCHEMA_TYPES
    return is_type and value.keys() <= _SCHEMA_WORDS | _SCHEMA_VALUES
