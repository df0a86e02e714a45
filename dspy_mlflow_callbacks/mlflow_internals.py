"""The only door to MLflow's private modules.

Each function says what it relies on; `tests/test_mlflow_internals.py` names it when an MLflow release changes it.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import mlflow
from mlflow.tracing import provider
from mlflow.tracing.config import get_config
from mlflow.tracing.context import _USER_TRACE_CONTEXT
from mlflow.tracing.trace_manager import InMemoryTraceManager
from mlflow.tracing.utils import set_span_cost_attribute, should_compute_cost_client_side
from mlflow.tracing.utils.processor import apply_span_processors
from mlflow.tracking import fluent
from mlflow.tracking._tracking_service import utils as tracking_service
from opentelemetry import trace as otel
from opentelemetry.sdk.trace import Tracer as SdkTracer
from opentelemetry.sdk.trace.id_generator import IdGenerator

from dspy_mlflow_callbacks.background import STORE_SECONDS, Search

# The names of MLflow's span attributes and trace metadata (mlflow.tracing.constant): its storage format.
INPUTS = "mlflow.spanInputs"
OUTPUTS = "mlflow.spanOutputs"
REQUEST_ID = "mlflow.traceRequestId"
SPAN_TYPE = "mlflow.spanType"
LOG_LEVEL = "mlflow.spanLogLevel"
EXPERIMENT_ID = "mlflow.experimentId"
SOURCE_RUN = "mlflow.sourceRun"

# MLflow imports this, and a second's worth of modules with it, when it starts its first trace: not in a user's call.
with suppress(ImportError):
    importlib.import_module("mlflow.pyfunc.context")

_OK = otel.Status(otel.StatusCode.OK)

_CARRIED_RUN: ContextVar[Any] = ContextVar("dspy_mlflow_callbacks_run", default=None)


class _Ids(IdGenerator):
    """Ids from the operating system.

    OpenTelemetry's own generator draws on `random`: it would change what a seeded program computes, and a
    program that seeds alike twice would get the same ids twice.
    """

    def __init__(self) -> None:
        self._bits = random.SystemRandom().getrandbits

    def generate_span_id(self) -> int:
        """Return a random 64-bit id that is not 0."""
        return self._bits(64) or 1

    def generate_trace_id(self) -> int:
        """Return a random 128-bit id that is not 0."""
        return self._bits(128) or 1


ids = _Ids()


@attrs.frozen(eq=False)
class Tracer:
    """MLflow's OpenTelemetry tracer and its context, as long as MLflow keeps its tracer provider.

    MLflow reads environment variables to find each of them, at every call.
    """

    provider: Any
    tracer: otel.Tracer
    _context: Any
    _is_isolated: bool
    _is_shared: bool

    @classmethod
    def find(cls) -> Tracer:
        """Ask MLflow, which makes its provider if it has none."""
        tracer = provider._get_tracer("dspy_mlflow_callbacks")
        if isinstance(tracer, SdkTracer):
            tracer.id_generator = ids
        is_isolated = provider.MLFLOW_USE_DEFAULT_TRACER_PROVIDER.get()
        propagate = getattr(provider, "MLFLOW_TRACE_PROPAGATE_TO_OTEL_CONTEXT", None)  # since MLflow 3.15
        is_shared = is_isolated and propagate is not None and propagate.get()
        return cls(provider.provider.get(), tracer, provider.get_context_api(), is_isolated, is_shared)

    @property
    def is_current(self) -> bool:
        """Whether MLflow still has the provider: `disable`, `set_destination`, `set_tracking_uri`, … change it."""
        now = provider.provider._isolated_tracer_provider if self._is_isolated else otel._TRACER_PROVIDER
        return now is self.provider

    def current_span(self) -> otel.Span:
        """Return the OpenTelemetry span in MLflow's context; an invalid one where there is none."""
        return otel.get_current_span(self._context.get_current())

    def attach(self, span: otel.Span) -> Callable[[], None]:
        """Make *span* the active one in MLflow's context and return what undoes it."""
        if self._is_shared:  # then a second context is in play, which MLflow knows to keep in step
            token = provider.set_span_in_context(SimpleNamespace(_span=span))
            return functools.partial(_detach, provider.detach_span_from_context, token)
        token = self._context.attach(otel.set_span_in_context(span, self._context.get_current()))
        return functools.partial(_detach, self._context.detach, token)


def _detach(detach: Callable[[Any], None], token: Any) -> None:
    """Undo an `attach`; a no-op in a context that never saw it, as when an abandoned generator is closed."""
    with suppress(ValueError):
        detach(token)


class _CurrentTracer:
    """Finds the tracer anew only when MLflow changes its provider.

    MLflow opens its store then, and tries a database that cannot be opened for a minute: in a thread of its own, for
    which the first call waits a while and later ones do not.
    """

    def __init__(self) -> None:
        self._known: Tracer | None = None
        self._search: Search[Tracer] = Search(STORE_SECONDS)

    def __call__(self) -> Tracer:
        known = self._known
        if known is None or not known.is_current:
            self._known = known = self._search(mlflow.get_tracking_uri(), Tracer.find)
        return known


tracer = _CurrentTracer()


def live_span(span: Any) -> Any:
    """Return MLflow's live span around *span*, which MLflow's span processor has registered."""
    trace_id = span.attributes[REQUEST_ID]
    span_id = f"{span.get_span_context().span_id:016x}"
    return InMemoryTraceManager.get_instance().get_span_from_id(json.loads(trace_id), span_id)


def replace_event_attribute(event: Any, key: str, text: str) -> None:
    """Put *text* into an event of an open span; OpenTelemetry's SDK does not let one change its attributes."""
    event._attributes = {**event.attributes, key: text}


def replace_status_description(span: Any, text: str) -> None:
    """Put *text* into the status of an open span that has failed."""
    span._status = otel.Status(span.status.status_code, text)


def trace_info(span: Any) -> Any:
    """Return MLflow's `TraceInfo` of the trace that an open span is of; None if it is not in memory."""
    with InMemoryTraceManager.get_instance().get_trace(json.loads(span.attributes[REQUEST_ID])) as trace:
        return None if trace is None else trace.info


def end_span(span: Any, *, is_priced: bool) -> None:
    """Do what `LiveSpan.end` does for a span that has its log level, in a third of its time.

    A status of error that somebody set on the span stays.
    """
    if span.status.status_code is not otel.StatusCode.ERROR:
        span.set_status(_OK)
    if is_priced and should_compute_cost_client_side():
        set_span_cost_attribute(live_span(span))
    if get_config().span_processors:  # what the user gave to `mlflow.tracing.configure`
        apply_span_processors(live_span(span))
    span.end()


@functools.lru_cache(maxsize=64)
def default_level(span_type: str) -> str | None:
    """Return MLflow's log level for spans of this type as JSON; None before MLflow 3.13, which has no levels."""
    try:
        from mlflow.tracing.utils.default_log_level import default_log_level_for_span_type  # noqa: PLC0415
    except ImportError:  # pragma: no cover  (mlflow < 3.13: `make test-oldest`)
        return None
    return str(int(default_log_level_for_span_type(span_type)))


def is_suppressed() -> bool:
    """Return whether the user switched tracing off here with `mlflow.tracing.context(enabled=False)`."""
    scope = _USER_TRACE_CONTEXT.get()
    return scope is not None and scope.enabled is False


def calling_run() -> Any:
    """Return the MLflow run that is active in this thread, or in the thread that handed DSPy this work.

    MLflow itself takes the newest run of any thread, and mixes up runs that are open side by side.
    """
    return mlflow.active_run() or _CARRIED_RUN.get()


def has_destination() -> bool:
    """Return whether the user chose where traces go with `mlflow.tracing.set_destination`."""
    return provider._MLFLOW_TRACE_USER_DESTINATION.get() is not None


def active_experiment_id() -> str | None:
    """Return the id of the experiment that MLflow sends traces to; None where they go elsewhere."""
    destination = provider._MLFLOW_TRACE_USER_DESTINATION.get()
    if destination is None:
        return str(fluent._get_experiment_id())
    return getattr(destination, "experiment_id", None)


def in_current_context(function: Callable[..., Any]) -> Callable[..., Any]:
    """Bind *function* to MLflow's context of now: active span, `mlflow.tracing.context`, run."""
    context = provider.get_context_api()
    active, scope, run = context.get_current(), _USER_TRACE_CONTEXT.get(), calling_run()

    def bound(*args: Any, **kwargs: Any) -> Any:
        tokens = context.attach(active), _USER_TRACE_CONTEXT.set(scope), _CARRIED_RUN.set(run)
        try:
            return function(*args, **kwargs)
        finally:
            _CARRIED_RUN.reset(tokens[2])
            _USER_TRACE_CONTEXT.reset(tokens[1])
            context.detach(tokens[0])

    return bound


@contextmanager
def store_of_its_own(tracking_uri: str, experiment_name: str, artifacts: Path) -> Iterator[str]:
    """Trace into a new experiment of the store at *tracking_uri* and yield its id, then put everything back.

    Traces are written at once, in the thread that ends them.
    """
    with _restored_globals(), _restored_environment():
        mlflow.tracing.reset()
        os.environ["MLFLOW_ENABLE_ASYNC_TRACE_LOGGING"] = "false"
        os.environ.pop("MLFLOW_TRACE_SAMPLING_RATIO", None)
        mlflow.set_tracking_uri(tracking_uri)
        experiment_id = mlflow.create_experiment(experiment_name, artifact_location=artifacts.as_uri())
        fluent._active_experiment_id = experiment_id  # `set_experiment` would log and ask the store
        yield experiment_id


@contextmanager
def _restored_globals() -> Iterator[None]:
    uri, experiment = tracking_service._tracking_uri, fluent._active_experiment_id
    destination = provider._MLFLOW_TRACE_USER_DESTINATION.get()
    enabled = provider.is_tracing_enabled()
    try:
        yield
    finally:
        tracking_service._tracking_uri = uri
        fluent._active_experiment_id = experiment
        mlflow.tracing.reset()
        if destination is not None:
            mlflow.tracing.set_destination(destination)
        if not enabled:
            mlflow.tracing.disable()


@contextmanager
def _restored_environment() -> Iterator[None]:
    before = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
            del os.environ[name]
        os.environ.update(before)
