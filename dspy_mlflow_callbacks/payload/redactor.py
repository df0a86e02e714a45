"""Secrets out of what leaves."""

from __future__ import annotations

from typing import Any

import attrs

from dspy_mlflow_callbacks import checks
from dspy_mlflow_callbacks.payload.step import Payload
from dspy_mlflow_callbacks.secrets import without_secrets


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(value)


@attrs.frozen(kw_only=True)
class Redactor:
    """Takes secrets out of payloads.

    Args:
        keys: Globs of further names under which secrets stand.
        patterns: Further regular expressions for secrets in any text.
        fields: Names of signature fields whose values are not recorded.
    """

    keys: tuple[str, ...] = attrs.field(default=(), converter=_texts)
    patterns: tuple[str, ...] = attrs.field(default=(), converter=_texts)
    fields: tuple[str, ...] = attrs.field(default=(), converter=_texts)

    __repr__ = checks.brief_repr

    def __call__(self, payload: Payload) -> Payload:
        """Return *payload* without secrets."""
        return payload.with_value(without_secrets(payload.value))
