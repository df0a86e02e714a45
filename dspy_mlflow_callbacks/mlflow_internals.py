"""The only door to MLflow's private modules.

Each function says what it relies on; `tests/test_mlflow_internals.py` names it when an MLflow release changes it.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import attrs
import mlflow
from mlflow.tracing import provider
from mlflow.tracing.config import get_config
from mlflow.tracing.context import _USER_TRACE_CONTEXT
from mlflow.tracing.fluent import _LAST_ACTIVE_TRACE_ID_THREAD_LOCAL
from mlflow.tracing.processor.mlflow_v3 import MlflowV3SpanProcessor
from mlflow.tracing.trace_manager import InMemoryTraceManager
from mlflow.tracing.utils import set_span_cost_attribute, should_compute_cost_client_side
from mlflow.tracing.utils.processor import apply_span_processors
from mlflow.tracking import fluent
from mlflow.tracking._tracking_service import utils as tracking_service
from mlflow.utils.autologging_utils import get_autologging_config
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
    asks_for_experiment: bool

    @classmethod
    def find(cls) -> Tracer:
        """Ask MLflow, which makes its provider if it has none."""
        tracer = provider._get_tracer("dspy_mlflow_callbacks")
        if isinstance(tracer, SdkTracer):
            tracer.id_generator = ids
        is_isolated = provider.MLFLOW_USE_DEFAULT_TRACER_PROVIDER.get()
        propagate = getattr(provider, "MLFLOW_TRACE_PROPAGATE_TO_OTEL_CONTEXT", None)  # since MLflow 3.15
        is_shared = is_isolated and propagate is not None and propagate.get()
        of_provider = provider.provider.get()
        processors = getattr(getattr(of_provider, "_active_span_processor", None), "_span_processors", ())
        asks = any(isinstance(each, MlflowV3SpanProcessor) for each in processors)  # others need no experiment
        return cls(of_provider, tracer, provider.get_context_api(), is_isolated, is_shared, asks)

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
    try:  # `suppress` takes as long as all the rest
        detach(token)
    except ValueError:
        return


class _CurrentTracer:
    """Finds the tracer anew only when MLflow changes its provider.

    MLflow opens its store then, and tries a database that cannot be opened for a minute: in a thread of its own, for
    which the first call waits a while and later ones do not.
    """

    def __init__(self) -> None:
        self._known: Tracer | None = None
        self._search: Search[Tracer] = Search(STORE_SECONDS)

    @property
    def is_known(self) -> bool:
        """Whether it was found before: then MLflow hears of the spans of its provider."""
        return self._known is not None

    def __call__(self) -> Tracer:
        known = self._known
        if known is None or not known.is_current:
            # With another setting it is another search, however slowly the one before failed.
            isolation = os.environ.get("MLFLOW_USE_DEFAULT_TRACER_PROVIDER", "")
            self._known = known = self._search(f"{mlflow.get_tracking_uri()} {isolation}", Tracer.find)
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


def calling_run() -> Any:
    """Return the MLflow run that is active in this thread, or in the thread that handed DSPy this work.

    MLflow itself takes the newest run of any thread, and mixes up runs that are open side by side.
    """
    return mlflow.active_run() or _CARRIED_RUN.get()


@contextmanager
def as_active_run(run: Any) -> Iterator[None]:
    """Make *run* this thread's active run: somebody may have left another one open, or it is another thread's."""
    stack = fluent._active_run_stack.get()
    before = list(stack)
    stack.append(run)
    try:
        yield
    finally:
        stack[:] = before


def end_run(run: Any, status: str) -> None:
    """End *run*, which this thread may have open; runs that somebody left open inside it stay open.

    Args:
        run: What `mlflow.start_run` returned.
        status: `FINISHED` or `FAILED`.
    """
    stack = fluent._active_run_stack.get()
    inside = [each for each in stack if each.info.run_id != run.info.run_id]
    stack[:] = [run]
    try:
        mlflow.end_run(status)
    finally:
        stack[:] = inside


def dspy_runs() -> Any:
    """Return MLflow's module that says what runs of DSPy contain; it imports dspy."""
    return importlib.import_module("mlflow.dspy.util")


# What `mlflow.dspy.autolog()` records. For evaluations its callback makes runs, and these go on.
_AUTOLOG_KINDS = ("module", "lm", "adapter_format", "adapter_parse", "tool")

_AUTOLOG = threading.Lock()


def pass_over_autolog(takes: Callable[[str, Any], bool], passed_over: Callable[[], object]) -> None:
    """Make the callback of `mlflow.dspy.autolog()` leave out calls that somebody else records; twice is once.

    It relies on that callback's `on_<kind>_start` and `_end`, which do nothing but open and close a span.

    Args:
        takes: Given a kind of call and the module, LM, … that is called, says whether somebody else records it.
        passed_over: Told of each call that is left out and would have been recorded.
    """
    with _AUTOLOG, suppress(ImportError):  # two threads that make a callback at once
        callback = importlib.import_module("mlflow.dspy.callback").MlflowCallback  # imports dspy
        if not hasattr(callback.on_module_start, "_passes_over"):
            for kind in _AUTOLOG_KINDS:
                _pass_over(callback, kind, takes, passed_over)


def _pass_over(callback: Any, kind: str, takes: Callable[[str, Any], bool], passed_over: Callable[[], object]) -> None:
    start, end = f"on_{kind}_start", f"on_{kind}_end"
    original_start, original_end = getattr(callback, start), getattr(callback, end)

    @functools.wraps(original_start)
    def on_start(self: Any, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        if not takes(kind, instance):
            original_start(self, call_id=call_id, instance=instance, inputs=inputs)
            return
        if get_autologging_config("dspy", "log_traces"):
            passed_over()
        if kind == "module":
            _LAST_ACTIVE_TRACE_ID_THREAD_LOCAL.set(None)

    @functools.wraps(original_end)
    def on_end(self: Any, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        if call_id in self._call_id_to_span:
            original_end(self, call_id=call_id, outputs=outputs, exception=exception)
        elif kind == "module" and (trace_id := mlflow.get_active_trace_id()) is not None:
            # The patched metric of `dspy.Evaluate` puts its value on the trace that ended last in its thread: a trace
            # of a program alone. Here the program's call is in the evaluation's trace, or, dropped, in none.
            _LAST_ACTIVE_TRACE_ID_THREAD_LOCAL.set(trace_id)

    on_start._passes_over = True  # type: ignore[attr-defined]
    setattr(callback, start, on_start)
    setattr(callback, end, on_end)


def is_in_mlflow(span: Any) -> bool:
    """Return whether MLflow has an OpenTelemetry span, which may be anybody's, as a span of a trace of its own."""
    return REQUEST_ID in (getattr(span, "attributes", None) or ())


def has_destination() -> bool:
    """Return whether the user chose where traces go with `mlflow.tracing.set_destination`."""
    return provider._MLFLOW_TRACE_USER_DESTINATION.get() is not None


def experiment_variables() -> tuple[str | None, str | None]:
    """Return the experiment's name and id that MLflow's variables say, where nothing in the program is before them.

    MLflow asks its store for them at every trace, where it stores traces there.
    """
    if fluent._active_experiment_id or has_destination() or not tracer().asks_for_experiment:
        return None, None
    return os.environ.get("MLFLOW_EXPERIMENT_NAME"), os.environ.get("MLFLOW_EXPERIMENT_ID")


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
        # A write takes two connections of a pool of 15: when 16 threads hold one each, all of them wait for ever.
        os.environ.pop("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", None)
        os.environ["MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW"] = "-1"
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
