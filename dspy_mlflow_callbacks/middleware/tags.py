"""Tags and metadata for traces."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from dspy_mlflow_callbacks.events import CallStart

# MLflow's limits: mlflow.utils.validation.MAX_TRACE_TAG_KEY_LENGTH and MAX_TRACE_TAG_VAL_LENGTH.
MAX_KEY_CHARACTERS = 250
MAX_VALUE_CHARACTERS = 4096


def _texts(value: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(value, Mapping):
        message = f"tags must be a mapping of texts to texts, got {value!r}"
        raise TypeError(message)
    return dict(value)


def _check_texts(_: object, attribute: attrs.Attribute[dict[str, str]], value: dict[str, str]) -> None:
    for key, text in value.items():
        if not isinstance(key, str) or not isinstance(text, str):
            message = f"{attribute.name} must map texts to texts, got {key!r}: {text!r}"
            raise TypeError(message)
        if not key or len(key) > MAX_KEY_CHARACTERS:
            message = f"{attribute.name} must have keys of 1 to {MAX_KEY_CHARACTERS} characters, got {key!r}"
            raise ValueError(message)
        if len(text) > MAX_VALUE_CHARACTERS:
            message = f"{attribute.name}[{key!r}] must have at most {MAX_VALUE_CHARACTERS} characters, got {len(text)}"
            raise ValueError(message)


@attrs.frozen
class TagInjector:
    """Puts tags on every trace.

    Args:
        tags: Texts by name: keys of 1 to 250 characters, values of at most 4,096 (MLflow's limits).

    Raises:
        TypeError: if *tags* is not a mapping of texts to texts.
        ValueError: if a key or a value is longer than MLflow stores.
    """

    tags: dict[str, str] = attrs.field(converter=_texts, validator=_check_texts)

    def __call__(self, call: CallStart) -> CallStart:
        """Return *call* with the tags if it is where a trace begins, else *call* itself."""
        if not call.is_root:
            return call
        return attrs.evolve(call, tags={**call.tags, **self.tags})
