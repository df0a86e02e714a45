"""Tags, metadata, session and user for traces."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs

from dspy_mlflow_callbacks import checks
from dspy_mlflow_callbacks.events import EMPTY, CallStart
from dspy_mlflow_callbacks.stats import WarnOnce

# MLflow's limits, which all its stores keep: mlflow.tracing.constant.MAX_CHARS_IN_TRACE_INFO_TAGS_KEY,
# MAX_CHARS_IN_TRACE_INFO_TAGS_VALUE and MAX_CHARS_IN_TRACE_INFO_METADATA.
MAX_KEY_CHARACTERS = 250
MAX_TAG_CHARACTERS = 4096
MAX_METADATA_CHARACTERS = 250

# The keys that MLflow keeps session and user under (mlflow.tracing.constant.TraceMetadataKey).
SESSION = "mlflow.trace.session"
USER = "mlflow.trace.user"

Text = str | Callable[[CallStart], "str | None"]


def checked_texts(argument: str, texts: Any, *, or_callables: bool = False) -> dict[str, Any]:
    """Return *texts* as a dict of what MLflow stores whole.

    Args:
        argument: The argument's name; `tags` may be longer than the rest.
        texts: Texts by name.
        or_callables: Whether a callable may stand for a text.

    Raises:
        TypeError: if *texts* is no mapping, or a key or a value is of another type.
        ValueError: if a key is empty, or a key or a text is longer than MLflow stores.
    """
    if not isinstance(texts, Mapping):
        message = f"{argument} must be a mapping of texts to texts, got {texts!r}"
        raise TypeError(message)
    for key, text in texts.items():
        if not isinstance(key, str) or not (isinstance(text, str) or (or_callables and callable(text))):
            allowed = "texts or callables" if or_callables else "texts"
            message = f"{argument} must map texts to {allowed}, got {key!r}: {text!r}"
            raise TypeError(message)
        if not key or len(key) > MAX_KEY_CHARACTERS:
            message = f"{argument} must have keys of 1 to {MAX_KEY_CHARACTERS} characters, got {key!r}"
            raise ValueError(message)
        _check_length(f"{argument}[{key!r}]", text, MAX_TAG_CHARACTERS if argument == "tags" else None)
    return dict(texts)


def checked_text(argument: str, text: Any, *, or_callable: bool = False) -> Any:
    """Return *text*, a session or user: a text that MLflow stores whole, or None.

    Raises:
        TypeError: if it is of another type.
        ValueError: if it is longer than MLflow stores.
    """
    if text is not None and not isinstance(text, str) and not (or_callable and callable(text)):
        allowed = "a text or a callable" if or_callable else "a text"
        message = f"{argument} must be {allowed}, got {text!r}"
        raise TypeError(message)
    _check_length(argument, text, None)
    return text


def _check_length(argument: str, text: Any, limit: int | None) -> None:
    limit = limit or MAX_METADATA_CHARACTERS
    if isinstance(text, str) and len(text) > limit:
        message = f"{argument} must have at most {limit} characters, got {len(text)}"
        raise ValueError(message)


def _as_dict(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def _check_texts(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    checked_texts(attribute.name, value, or_callables=True)


def _check_names(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    checked_texts(attribute.name, value)


def _check_text(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    checked_text(attribute.name, value, or_callable=True)


@attrs.frozen
class TagInjector:
    """Puts tags, metadata, session and user on every trace.

    Where a text is asked for, a callable will do as well: it is given the call where the trace begins, and returns a
    text (cut to what MLflow stores), or None for none. One that raises costs what it would have said, and is warned of
    once. A `trace_context` or `mlflow.tracing.context` around the call, being closer to it, has the last word on the
    names that it gives; a later middleware has it over an earlier one.

    A program of its own callback inside another program's trace puts its tags on that trace.

    Args:
        tags: Texts by name: keys of 1 to 250 characters, values of at most 4,096 (MLflow's limits).
        metadata: Texts by name, which cannot be changed once the trace is stored: values of at most 250 characters.
        session_id: The session (conversation) that traces belong to, at most 250 characters.
        user: The user that traces belong to, at most 250 characters.
        from_env: Names of environment variables by tag, read when the trace begins; one that is unset or empty gives
            no tag.
        from_settings: Paths into DSPy's settings by tag, such as `{"model": "lm.model"}`, through attributes and the
            keys of dicts; one that leads nowhere gives no tag.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if a key or a text is longer than MLflow stores.

    Example:
        ```python
        tags = TagInjector({"team": "search"}, user=lambda call: current_request().user, from_env={"pod": "HOSTNAME"})
        dspy.configure(callbacks=[MlflowCallback(middleware=[tags])])
        ```
    """

    tags: Mapping[str, Text] = attrs.field(default=EMPTY, converter=_as_dict, validator=_check_texts, hash=False)
    metadata: Mapping[str, Text] = attrs.field(
        default=EMPTY, converter=_as_dict, validator=_check_texts, hash=False, kw_only=True
    )
    session_id: Text | None = attrs.field(default=None, validator=_check_text, kw_only=True)
    user: Text | None = attrs.field(default=None, validator=_check_text, kw_only=True)
    from_env: Mapping[str, str] = attrs.field(
        default=EMPTY, converter=_as_dict, validator=_check_names, hash=False, kw_only=True
    )
    from_settings: Mapping[str, str] = attrs.field(
        default=EMPTY, converter=_as_dict, validator=_check_names, hash=False, kw_only=True
    )
    _warn: WarnOnce = attrs.field(init=False, factory=WarnOnce, repr=False, eq=False)

    __repr__ = checks.brief_repr

    def __call__(self, call: CallStart) -> CallStart:
        """Return *call* with the tags if it is where recording begins, else *call* itself."""
        if not call.is_entry:
            return call
        scope = call.scope
        tags = _unless_said(dict(self._tags(call)), {} if scope is None else scope.tags)
        metadata = _unless_said(dict(self._metadata(call)), {} if scope is None else scope.metadata)
        return attrs.evolve(call, tags={**call.tags, **tags}, metadata={**call.metadata, **metadata})

    def _tags(self, call: CallStart) -> Iterator[tuple[str, str]]:
        yield from self._said(self.tags, call, MAX_TAG_CHARACTERS)
        for tag, variable in self.from_env.items():
            if text := os.environ.get(variable):
                yield tag, text[:MAX_TAG_CHARACTERS]
        settings = {tag: _Setting(path) for tag, path in self.from_settings.items()}
        yield from self._said(settings, call, MAX_TAG_CHARACTERS)

    def _metadata(self, call: CallStart) -> Iterator[tuple[str, str]]:
        texts = {**self.metadata, SESSION: self.session_id, USER: self.user}
        yield from self._said(texts, call, MAX_METADATA_CHARACTERS)

    def _said(self, texts: Mapping[str, Text | None], call: CallStart, limit: int) -> Iterator[tuple[str, str]]:
        for key, text in texts.items():
            said = self._answer(key, text, call) if callable(text) else text
            if said is not None:
                yield key, said[:limit]

    def _answer(self, key: str, function: Callable[[CallStart], Any], call: CallStart) -> str | None:
        try:
            said = function(call)
            return None if said is None else str(said)
        except Exception as error:  # noqa: BLE001  (the user's own function: it costs its own text, not the trace)
            self._warn(key, f"What should give the trace its {key!r} failed: {error!r}", error)
            return None


def _unless_said(texts: Mapping[str, str], scope: Mapping[str, str]) -> dict[str, str]:
    """Return *texts*, but where the scope around the call says something else, that."""
    return {key: scope.get(key, text) for key, text in texts.items()}


@attrs.frozen
class _Setting:
    """Finds what a path into DSPy's settings leads to."""

    path: str

    def __call__(self, call: CallStart) -> Any:
        value = call.settings
        for name in self.path.split("."):
            value = value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
        return value
