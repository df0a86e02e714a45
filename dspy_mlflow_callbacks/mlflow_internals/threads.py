"""MLflow's context in another thread."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar, Token
from typing import Any

from mlflow.tracing import provider
from mlflow.tracing.context import _USER_TRACE_CONTEXT
from opentelemetry import trace as otel
from opentelemetry.context import Context

from dspy_mlflow_callbacks.mlflow_internals.live_traces import trace_entry
from dspy_mlflow_callbacks.mlflow_internals.remote import ContextScope
from dspy_mlflow_callbacks.mlflow_internals.runs import CARRIED_RUN, calling_run, carried_experiment

_CARRIED_SPAN: ContextVar[Any] = ContextVar("dspy_mlflow_callbacks_span", default=None)


def is_carried(span: Any) -> bool:
    """Return whether a span was the active one where the caller's work was handed to another thread."""
    return span is not None and _CARRIED_SPAN.get() is span


class CarriedContext:
    """MLflow's context of now for another thread: active span, `mlflow.tracing.context`, run, experiment."""

    def __init__(self) -> None:
        self._context = provider.get_context_api().get_current()
        self._span = otel.get_current_span(self._context)
        self._scope = _USER_TRACE_CONTEXT.get()
        self._run = calling_run()
        self._experiment_id = _experiment_of(self._span) or carried_experiment()

    def open(self) -> OpenContext:
        """Make it the context of the caller; closed, the one before is."""
        token = _CARRIED_SPAN.set(self._span)
        return OpenContext(ContextScope(self._context, self._run, self._experiment_id, self._scope), token)


class OpenContext:
    """A `CarriedContext` that holds here, until it is closed."""

    def __init__(self, scope: ContextScope, token: Token[Any]) -> None:
        self._scope = scope
        self._token = token

    def close(self) -> None:
        """Put back what was there."""
        with suppress(ValueError):  # opened in another context: an abandoned async generator
            _CARRIED_SPAN.reset(self._token)
        self._scope.close()


def _experiment_of(span: Any) -> str | None:
    trace = getattr(span, "trace", None)  # of a light span: to ask MLflow for it would be a look
    if trace is not None:
        return str(trace.destination.experiment_id)
    entry = trace_entry(span.get_span_context().trace_id)
    location = None if entry is None else entry.info.trace_location
    return None if location is None else str(entry.info.experiment_id)


def in_current_context(function: Callable[..., Any]) -> Callable[..., Any]:
    """Bind *function* to MLflow's context of now: active span, `mlflow.tracing.context`, run."""
    context = provider.get_context_api()
    active, scope, run = context.get_current(), _USER_TRACE_CONTEXT.get(), calling_run()

    def bound(*args: Any, **kwargs: Any) -> Any:
        tokens = context.attach(active), _USER_TRACE_CONTEXT.set(scope), CARRIED_RUN.set(run)
        try:
            return function(*args, **kwargs)
        finally:
            CARRIED_RUN.reset(tokens[2])
            _USER_TRACE_CONTEXT.reset(tokens[1])
            context.detach(tokens[0])

    return bound


def leave_spans() -> None:
    """Begin afresh in the current context: no span of MLflow's encloses what runs in it from here on."""
    provider.get_context_api().attach(Context())
