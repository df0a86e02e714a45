"""Scopes: what `with` says of the traces inside it, in whatever threads and tasks they run."""

from __future__ import annotations

from collections.abc import Mapping

from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.events import EMPTY
from dspy_mlflow_callbacks.middleware.tags import SESSION, USER, checked_text, checked_texts
from dspy_mlflow_callbacks.scoped import Scoped


def trace_context(
    *,
    session_id: str | None = None,
    user: str | None = None,
    tags: Mapping[str, str] = EMPTY,
    metadata: Mapping[str, str] = EMPTY,
    enabled: bool | None = None,
) -> TraceContext:
    """Return a scope that says the session, user, tags and metadata of the traces inside, or that there are none.

    Use it with `with` or `async with`, or as a decorator of a function, a coroutine function or a (sync or async)
    generator function, or of one that returns a coroutine or a generator; again and again, and in many threads at once,
    if you like.

    - Scopes nest: the inner one wins where both say something, and adds the rest. `mlflow.tracing.context` combines
      with it in the same way, inside or outside. A scope wins over `TagInjector` and the options `tags`, `metadata`,
      `session_id` and `user`.
    - It holds in DSPy's worker threads (`dspy.Parallel`, `batch`, `dspy.Evaluate`, `dspy.asyncify`, `dspy.streamify`)
      and in async tasks that are started inside, also when they outlive it. Of your own threads it holds in those that
      run in a copy of the context (`contextvars.copy_context`, `asyncio.to_thread`).
    - Opened inside a running trace, it puts what it says on that trace at once, as `mlflow.update_current_trace` does.
    - A stream's calls begin when it is read: what counts is the scope around the reader's first step, not the one in
      which the stream was made. Decorate the streaming function to have the scope in the stream, and only there:
      `trace_context(session_id=…)(dspy.streamify(program))`.
    - With `with` inside a generator the scope is seen by the generator's consumer too while the generator waits, as all
      context variables are; a decorated generator function keeps it to itself.

    Args:
        session_id: The session (conversation) of the traces, at most 250 characters; None is that of the scope outside.
        user: The user of the traces, at most 250 characters; None is that of the scope outside.
        tags: Texts by name: keys of 1 to 250 characters, values of at most 4,096.
        metadata: Texts by name, which cannot be changed once a trace is stored: values of at most 250 characters.
        enabled: False records nothing inside, by whatever callback, and none of your own `mlflow.start_span` either;
            True records again inside a scope that does not (what sampling, filters or a callback with `enabled=False`
            leave out stays out); None is as outside.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if a key or a text is longer than MLflow stores.

    Example:
        ```python
        with trace_context(session_id="conversation 7", user="ann", tags={"channel": "mail"}):
            program(question="Where is my parcel?")
        ```
    """
    if enabled is not None and not isinstance(enabled, bool):
        message = f"enabled must be True, False or None, got {enabled!r}"
        raise TypeError(message)
    texts = checked_texts("metadata", metadata)
    ids = {SESSION: checked_text("session_id", session_id), USER: checked_text("user", user)}
    texts.update({key: text for key, text in ids.items() if text is not None})
    return TraceContext(checked_texts("tags", tags), texts, enabled)


def suppress_tracing() -> TraceContext:
    """Return a scope in which nothing is recorded: `trace_context(enabled=False)`.

    In the middle of a program it leaves out what runs inside, and the trace goes on after it.

    Example:
        ```python
        with suppress_tracing():
            warm_up(program)
        ```
    """
    return trace_context(enabled=False)


class TraceContext(Scoped):
    """What `trace_context` returns: a context manager, sync and async, and a decorator."""

    called = "trace_context"

    def __init__(self, tags: dict[str, str], metadata: dict[str, str], enabled: bool | None) -> None:  # noqa: FBT001
        super().__init__()
        self._tags = tags
        self._metadata = metadata
        self._enabled = enabled

    def __repr__(self) -> str:
        return f"TraceContext(tags={self._tags!r}, metadata={self._metadata!r}, enabled={self._enabled!r})"

    def _innermost(self) -> internals.TraceScope:
        # Used in many threads or in itself, it has many open: the innermost here is meant.
        scope: internals.TraceScope
        scope = next((each for each in internals.open_scopes() if each in self._open), self._open[-1])
        return scope

    def _begun(self) -> internals.TraceScope:
        """Open a scope, and put what it says on the trace that is running here."""
        scope = self._resumed()
        if (self._tags or self._metadata) and not internals.is_suppressed():
            internals.tag_active_trace(self._tags, self._metadata)
        return scope

    def _resumed(self) -> internals.TraceScope:
        return internals.TraceScope(self._tags, self._metadata, self._enabled)
