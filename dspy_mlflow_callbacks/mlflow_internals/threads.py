"""MLflow's context in another thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlflow.tracing import provider
from mlflow.tracing.context import _USER_TRACE_CONTEXT
from opentelemetry.context import Context

from dspy_mlflow_callbacks.mlflow_internals.runs import CARRIED_RUN, calling_run


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
