"""Tags, metadata, session and user for traces."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs

from dspy_mlflow_callbacks import checks
from dspy_mlflow_callbacks.events import EMPTY, CallStart
from dspy_mlflow_callbacks.stats import WarnOnce

# MLflow's limits: mlflow.utils.validation.MAX_TRACE_TAG_KEY_LENGTH and MAX_TRACE_TAG_VAL_LENGTH, and
# mlflow.tracing.constant.MAX_CHARS_IN_TRACE_INFO_METADATA.
MAX_KEY_CHARACTERS = 250
MAX_TAG_CHARACTERS = 4096
MAX_METADATA_CHARACTERS = 250

# The keys that MLflow keeps session and user under (mlflow.tracing.constant.TraceMetadataKey).
SESSION = "mlflow.trace.session"
USER = "mlflow.trace.user"

Text = str | Callable[[CallStart], "str | None"]


def _texts(value: Any) -> Mapping[str, Text]:
    if not isinstance(value, Mapping):
        message = f"must be a mapping of texts to texts, got {value!r}"
        raise TypeError(message)
    return dict(value)


def _check_texts(_: object, attribute: attrs.Attribute[Any], value: Mapping[str, Text]) -> None:
    limit = MAX_TAG_CHARACTERS if attribute.name == "tags" else MAX_METADATA_CHARACTERS
    for key, text in value.items():
        if not isinstance(key, str) or not (isinstance(text, str) or callable(text)):
            message = f"{attribute.name} must map texts to texts or callables, got {key!r}: {text!r}"
            raise TypeError(message)
        if not key or len(key) > MAX_KEY_CHARACTERS:
            message = f"{attribute.name} must have keys of 1 to {MAX_KEY_CHARACTERS} characters, got {key!r}"
            raise ValueError(message)
        if isinstance(text, str) and len(text) > limit:
            message = f"{attribute.name}[{key!r}] must have at most {limit} characters, got {len(text)}"
            raise ValueError(message)


def _check_text(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is None or callable(value):
        return
    if not isinstance(value, str):
        message = f"{attribute.name} must be a text or a callable, got {value!r}"
        raise TypeError(message)
    if len(value) > MAX_METADATA_CHARACTERS:
        message = f"{attribute.name} must have at most {MAX_METADATA_CHARACTERS} characters, got {len(value)}"
        raise ValueError(message)


@attrs.frozen
class TagInjector:
    """Puts tags, metadata, session and user on every trace.

    Where a text is asked for, a callable will do as well: it is given the call where the trace begins, and returns a
    text, or None for none. One that raises costs what it would have said, and is warned of once.

    Args:
        tags: Texts by name: keys of 1 to 250 characters, values of at most 4,096 (MLflow's limits).
        metadata: Texts by name, which cannot be changed once the trace is stored: values of at most 250 characters.
        session_id: The session (conversation) that traces belong to.
        user: The user that traces belong to.
        from_env: Names of environment variables by tag, read when the trace begins; one that is unset gives no tag.
        from_settings: Paths into DSPy's settings by tag, such as `{"model": "lm.model"}`.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if a key or a text is longer than MLflow stores.
    """

    tags: Mapping[str, Text] = attrs.field(default=EMPTY, converter=_texts, validator=_check_texts)
    metadata: Mapping[str, Text] = attrs.field(default=EMPTY, converter=_texts, validator=_check_texts, kw_only=True)
    session_id: Text | None = attrs.field(default=None, validator=_check_text, kw_only=True)
    user: Text | None = attrs.field(default=None, validator=_check_text, kw_only=True)
    from_env: Mapping[str, str] = attrs.field(default=EMPTY, converter=_texts, validator=_check_texts, kw_only=True)
    from_settings: Mapping[str, str] = attrs.field(
        default=EMPTY, converter=_texts, validator=_check_texts, kw_only=True
    )
    _warn: WarnOnce = attrs.field(init=False, factory=WarnOnce, repr=False, eq=False)

    __repr__ = checks.brief_repr

    def __call__(self, call: CallStart) -> CallStart:
        """Return *call* with the tags if it is where recording begins, else *call* itself."""
        if not call.is_entry:
            return call
        return attrs.evolve(
            call, tags={**call.tags, **self._tags(call)}, metadata={**call.metadata, **self._metadata(call)}
        )

    def _tags(self, call: CallStart) -> dict[str, str]:
        found = {
            **self.tags,
            **{tag: os.environ.get(variable) for tag, variable in self.from_env.items()},
            **{tag: lambda call, path=path: _setting(call.settings, path) for tag, path in self.from_settings.items()},
        }
        return dict(self._said(found, call, MAX_TAG_CHARACTERS))

    def _metadata(self, call: CallStart) -> dict[str, str]:
        found = {**self.metadata, SESSION: self.session_id, USER: self.user}
        return dict(self._said(found, call, MAX_METADATA_CHARACTERS))

    def _said(self, texts: Mapping[str, Any], call: CallStart, limit: int) -> Iterator[tuple[str, str]]:
        for key, text in texts.items():
            said = self._text_of(key, text, call) if callable(text) else text
            if said is not None:
                yield key, str(said)[:limit]

    def _text_of(self, key: str, function: Callable[[CallStart], str | None], call: CallStart) -> str | None:
        try:
            return function(call)
        except Exception as error:  # noqa: BLE001  (the user's own function: it costs its own text, not the trace)
            self._warn(key, f"What should give the trace its {key!r} failed: {error!r}", error)
            return None


def _setting(settings: Any, path: str) -> str | None:
    value = settings
    for name in path.split("."):
        value = getattr(value, name, None)
    return None if value is None else str(value)
