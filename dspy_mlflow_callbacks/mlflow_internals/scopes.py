"""The tags, metadata and switch that `mlflow.tracing.context` keeps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, cast

from mlflow.tracing import provider
from mlflow.tracing.context import _USER_TRACE_CONTEXT

from dspy_mlflow_callbacks.mlflow_internals.live_spans import trace_info
from dspy_mlflow_callbacks.mlflow_internals.names import REQUEST_ID


class TraceScope:
    """Tags and metadata for traces, and whether there are any, from where it is made until it is closed.

    It stands in MLflow's own variable in place of what `mlflow.tracing.context` puts there, so that the two combine.
    Unlike that it may be closed where it is not the innermost (a generator that ends while a scope of its consumer is
    open), and in another context than it was opened in (an abandoned async generator): wherever it still stands, it
    then says nothing.

    Args:
        tags: Texts by name.
        metadata: Texts by name.
        enabled: Whether traces are recorded; None is as outside.
    """

    __slots__ = ("_enabled", "_is_closed", "_metadata", "_outer", "_tags", "_token")

    def __init__(self, tags: dict[str, str], metadata: dict[str, str], enabled: bool | None) -> None:  # noqa: FBT001
        self._tags, self._metadata, self._enabled = tags, metadata, enabled
        self._is_closed = False
        self._outer = next(iter(open_scopes()), None)
        self._token = _USER_TRACE_CONTEXT.set(cast("Any", self))

    @property
    def tags(self) -> dict[str, str]:
        """The tags that hold here, those of the scopes around it among them."""
        outer = {} if self._outer is None else self._outer.tags
        return outer if self._is_closed else {**outer, **self._tags}

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata that holds here, that of the scopes around it among it."""
        outer = {} if self._outer is None else self._outer.metadata
        return outer if self._is_closed else {**outer, **self._metadata}

    @property
    def enabled(self) -> bool | None:
        """Whether traces are recorded here; None where no scope says."""
        outer: bool | None = None if self._outer is None else self._outer.enabled
        return outer if self._is_closed or self._enabled is None else self._enabled

    def close(self) -> None:
        """End the scope."""
        if _USER_TRACE_CONTEXT.get() is self:
            with suppress(ValueError):  # opened in another context
                _USER_TRACE_CONTEXT.reset(self._token)
                return  # tasks that were started inside keep it
        self._is_closed = True


def open_scopes() -> Iterator[Any]:
    """Yield the scopes around the caller, innermost first, ours and MLflow's; MLflow's hold those around them."""
    scope: Any = _USER_TRACE_CONTEXT.get()
    while scope is not None:
        if not getattr(scope, "_is_closed", False):
            yield scope
        scope = getattr(scope, "_outer", None)


def current_scope() -> Any:
    """Return what holds `tags` and `metadata` of the scopes around the caller; None where there is none."""
    return _USER_TRACE_CONTEXT.get()


def tag_active_trace(tags: dict[str, str], metadata: dict[str, str]) -> None:
    """Put tags and metadata on the trace that is running here, if there is one."""
    # Not `mlflow.get_current_active_span`, which writes into a span that another OpenTelemetry SDK made.
    span = provider.get_current_otel_span()
    trace_id = getattr(span, "attributes", {}).get(REQUEST_ID)
    info = None if trace_id is None else trace_info(span)
    if info is not None:
        info.tags.update(tags)
        info.trace_metadata.update(metadata)


def is_suppressed() -> bool:
    """Return whether a scope switched tracing off here: `enabled=False`, ours or `mlflow.tracing.context`'s."""
    scope = _USER_TRACE_CONTEXT.get()
    return scope is not None and scope.enabled is False


def is_resumed() -> bool:
    """Return whether a scope says that tracing is on here: `enabled=True`."""
    scope = _USER_TRACE_CONTEXT.get()
    return scope is not None and scope.enabled is True
