"""Secrets out of what leaves."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import attrs

from dspy_mlflow_callbacks import checks
from dspy_mlflow_callbacks.payload.step import Payload
from dspy_mlflow_callbacks.secrets import REDACTED, Secrets

# Counts, prices: a glob such as `*token*` is not meant for them, and MLflow adds them up.
_COUNTED = frozenset({"mlflow.chat.tokenUsage", "mlflow.llm.cost"})


def _texts(argument: str, value: Any) -> tuple[str, ...]:
    texts = checks.items(argument, value, "texts")
    for text in texts:
        if not isinstance(text, str):
            message = f"{argument} must be texts, got {text!r}"
            raise TypeError(message)
        if not text.strip():
            message = f"{argument} must be texts that say something, got {text!r}"
            raise ValueError(message)
    return texts


def _keys(value: Any) -> tuple[str, ...]:
    return _texts("keys", value)


def _fields(value: Any) -> tuple[str, ...]:
    return _texts("fields", value)


def _patterns(value: Any) -> tuple[str, ...]:
    patterns = _texts("patterns", value)
    for pattern in patterns:
        try:
            matches_nothing = re.compile(pattern).search("") is not None
        except re.error as error:
            message = f"patterns must be regular expressions, got {pattern!r}: {error}"
            raise ValueError(message) from None
        if matches_nothing:
            message = f"patterns must not match the empty text, got {pattern!r}"
            raise ValueError(message)
    return patterns


def _check_function(_: object, attribute: attrs.Attribute[Any], function: object) -> None:
    if function is not None and (not callable(function) or isinstance(function, type)):
        message = f"{attribute.name} must be a callable text -> text, got {function!r}"
        raise TypeError(message)


def _secrets(redactor: Redactor) -> Secrets:
    return Secrets(
        keys=redactor.keys,
        patterns=[re.compile(pattern) for pattern in redactor.patterns],
        fields=redactor.fields,
        function=redactor.function,
    )


@attrs.frozen(kw_only=True)
class Redactor:
    r"""Takes secrets out of payloads, and writes `[redacted]` in their place.

    Secrets are what stands under a credential's name (`api_key`, `Authorization`, `*_token`, `*_secret*`, `password`,
    …) in JSON, Python's reprs and assignments, and what looks like one by itself: keys of OpenAI, Anthropic, AWS,
    Google, GitHub, Slack and others, JSON web tokens, private keys, credentials in URLs. None stays None, and
    token counts stay.

    Args:
        keys: Globs of further names under which secrets stand, in any case: `"x-internal-*"`.
        patterns: Further regular expressions (Python's `re`) for secrets in any text or number.
        fields: Names of signature fields whose values are not recorded: as arguments and answers, in demos, and in
            the messages of DSPy's chat, JSON and XML adapters. A value that stands elsewhere too, as where the LM
            repeats it in another field, is not known for it.
        function: Given each text in a payload, without the secrets that are known, it returns what may be stored:
            of JSON each value that is a text, of a message or stack trace the whole.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if a text is empty, or a pattern no regular expression or one that matches the empty text.

    Example:
        ```python
        redactor = Redactor(fields=["ssn"], patterns=[r"\b\d{3}-\d{2}-\d{4}\b"])
        dspy.configure(callbacks=[MlflowCallback(payload_steps=[redactor])])
        ```
    """

    keys: tuple[str, ...] = attrs.field(default=(), converter=_keys)
    patterns: tuple[str, ...] = attrs.field(default=(), converter=_patterns)
    fields: tuple[str, ...] = attrs.field(default=(), converter=_fields)
    function: Callable[[str], str] | None = attrs.field(default=None, validator=_check_function)
    _secrets: Secrets = attrs.field(init=False, repr=False, eq=False, default=attrs.Factory(_secrets, takes_self=True))

    __repr__ = checks.brief_repr

    def __reduce__(self) -> tuple[Any, ...]:
        # What is derived is made anew where it is unpickled.
        return _redactor, (self.keys, self.patterns, self.fields, self.function)

    def clears(self, text: str) -> bool:
        """Return whether *text* has no secret in it."""
        return self._secrets.clears(text)

    def __call__(self, payload: Payload) -> Payload:
        """Return *payload* without secrets."""
        if payload.name in _COUNTED:
            return payload
        if payload.name != payload.place and self._secrets.is_name(payload.name):
            return payload if payload.text in ("", "null") else payload.with_value(REDACTED)
        if self._secrets.clears(payload.text):
            return payload
        text = self._secrets.json_without_secrets(payload.text) if payload.is_json else None
        if text is None:
            text = self._secrets.text_without_secrets(payload.text)
        return payload if text == payload.text else payload.with_text(text)


def _redactor(*settings: Any) -> Redactor:
    return Redactor(**dict(zip(("keys", "patterns", "fields", "function"), settings, strict=True)))
