"""The way through a JSON value whose dicts and lists are changed in place."""

from __future__ import annotations

from typing import Any, Protocol

import orjson

from dspy_mlflow_callbacks.secrets.hints import Hints
from dspy_mlflow_callbacks.secrets.schemas import examples, is_schema
from dspy_mlflow_callbacks.secrets.shapes import REDACTED

# Characters of JSON: so much is walked through sooner than it is searched for where to walk.
_WALKED = 4096

# How many times the whole JSON may be written in search of where to walk. It is used up where small things stand beside
# a large one at every depth; then the rest is walked through.
_TIMES_WRITTEN = 4

# Texts that are looked at as one: most of them have nothing.
_BLOCK = 32


class Decisions(Protocol):
    """What a walk asks: what is a secret."""

    @property
    def harmless_keys(self) -> set[str]:
        """Keys that are known to stay, with what stands under them."""

    @property
    def reads_numbers(self) -> bool:
        """Whether a number can be a secret."""

    def key(self, name: str) -> tuple[bool, str]:
        """Return whether a key is a secret's name, and the key without what is secret in itself."""

    def clears(self, text: str) -> bool:
        """Return whether *text*, JSON or not, or any number of such texts, has no secret in it."""

    def clears_texts(self, text: str) -> bool:
        """Return whether the texts in a JSON text have no secret in them."""

    def text_without_secrets(self, text: str, hints: Hints | None = None) -> str:
        """Return a text without secrets."""

    def number_without_secrets(self, number: float) -> Any:
        """Return a number, or what is to stand in place of it."""


class Walk:
    """One way through a JSON value.

    Args:
        decisions: What is a secret.

    Attributes:
        has_changed: Whether there was a secret.
    """

    def __init__(self, decisions: Decisions) -> None:
        self._decisions = decisions
        self._reads_numbers = decisions.reads_numbers
        self._reads_texts = True
        self._texts: list[tuple[str, Any, Any]] = []  # with the dict or list that each stands in, and where
        self._budget = 0
        self.has_changed = False

    def through(self, value: Any, text: str | None = None) -> Any:
        """Return a value without secrets, after a way through all of it.

        Args:
            value: A JSON value that nobody else has.
            text: The JSON text that has it, if known.
        """
        self._reads_texts = text is None or not self._decisions.clears_texts(text)
        whole = [value]
        self._enter(whole)
        self._finish(text)
        return whole[0]

    def through_parts(self, value: Any, text: str) -> Any:
        """Return what `through` does, for orjson to write: parts whose JSON texts are cleared are not gone through."""
        self._budget = _TIMES_WRITTEN * len(text)
        return self._search(value, text)

    def _search(self, value: Any, text: str) -> Any:
        if len(text) > _WALKED and self._budget > 0:
            if type(value) is list:
                return self._searched(value, text, joins=True)
            if type(value) is dict and self._has_plain_keys(value):
                self._hide_named(value)
                return dict(zip(value, self._searched(list(value.values()), text, joins=False), strict=True))
        return self.through(value, text)

    def _searched(self, items: list[Any], text: str, *, joins: bool) -> list[Any]:
        """Return *items* without secrets, some of them as what JSON they are; several become one if *joins*."""
        if len(items) == 1:
            return [self._search(items[0], text)]
        size = max(1, len(items) * _WALKED // len(text))
        result = []
        for start in range(0, len(items), size):
            part = items[start : start + size]
            written = orjson.dumps(part)
            self._budget -= len(written)
            part_text = written.decode()
            if not self._decisions.clears(part_text):
                result += self._search(part, part_text)
            else:
                # So that it is not written once more.
                result += [orjson.Fragment(written[1:-1])] if joins or size == 1 else part
        return result

    def _has_plain_keys(self, container: dict[str, Any]) -> bool:
        return all(self._decisions.key(key)[1] == key for key in container)

    def _hide_named(self, container: dict[str, Any]) -> None:
        for key, item in container.items():
            if self._decisions.key(key)[0] and item is not None:
                self._hide(container, key, item)

    def _hide(self, container: dict[str, Any], key: str, item: Any) -> bool:
        """Hide what stands under a secret's name, of a schema the examples; return whether nothing is left of it."""
        if key == "token" and "logprob" in container:
            return False  # what the model wrote, with how sure it was
        if not is_schema(item):
            self._put(container, key, REDACTED)
            return True
        for name in examples(item):
            self._put(item, name, REDACTED)
        return False

    def _enter(self, container: Any) -> None:
        if type(container) is dict:
            self._enter_dict(container)
        else:
            for index, item in enumerate(container):
                self._meet(item, container, index)

    def _enter_dict(self, container: dict[str, Any]) -> None:
        harmless = self._decisions.harmless_keys
        for key, item in container.items():
            if key in harmless:
                if type(item) is str:
                    if self._reads_texts:
                        self._texts.append((item, container, key))
                    continue
            else:
                is_secret, shown = self._decisions.key(key)
                if shown != key:
                    self._rename_keys(container)
                    self._enter_dict(container)
                    return
                if is_secret and item is not None and self._hide(container, key, item):
                    continue
            self._meet(item, container, key)

    def _meet(self, item: Any, container: Any, where: Any) -> None:
        kind = type(item)
        if kind is str:
            if self._reads_texts:
                self._texts.append((item, container, where))
        elif kind is dict or kind is list:
            self._enter(item)
        elif self._reads_numbers and kind in (int, float):
            shown = self._decisions.number_without_secrets(item)
            if shown is not item:
                self._put(container, where, shown)

    def _rename_keys(self, container: dict[str, Any]) -> None:
        items = [(self._decisions.key(key)[1], item) for key, item in container.items()]
        container.clear()
        container.update(items)
        self.has_changed = True

    def _put(self, container: Any, where: Any, item: Any) -> None:
        container[where] = item
        self.has_changed = True

    def _finish(self, whole: str | None) -> None:
        """Take the secrets out of the texts that were met, a block of them after the other."""
        texts, self._texts = self._texts, []
        hints = None
        for start in range(0, len(texts), _BLOCK):
            block = texts[start : start + _BLOCK]
            if len(block) == 1 or not self._decisions.clears("\n".join([text for text, _, _ in block])):
                hints = hints or Hints.of(whole or "\n".join([text for text, _, _ in texts]))
                for text, container, where in block:
                    result = self._decisions.text_without_secrets(text, hints)
                    if result != text:
                        self._put(container, where, result)
