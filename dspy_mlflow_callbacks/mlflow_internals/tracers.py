"""MLflow's OpenTelemetry tracer, its context and its ids."""

from __future__ import annotations

import functools
import importlib
import os
import random
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import attrs
import mlflow
from mlflow.tracing import provider
from mlflow.tracing.processor.mlflow_v3 import MlflowV3SpanProcessor
from mlflow.tracing.processor.otel import OtelSpanProcessor
from opentelemetry import trace as otel
from opentelemetry.sdk.trace import Tracer as SdkTracer
from opentelemetry.sdk.trace.id_generator import IdGenerator

from dspy_mlflow_callbacks.background import STORE_SECONDS, Search
from dspy_mlflow_callbacks.mlflow_internals.recorders import Recorder, shares_context

# MLflow imports this, and a second's worth of modules with it, when it starts its first trace: not in a user's call.
with suppress(ImportError):
    importlib.import_module("mlflow.pyfunc.context")


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

    MLflow reads environment variables to find each of them, at every call. *recorder* is None where traces go elsewhere
    than to a tracking store.
    """

    provider: Any
    tracer: otel.Tracer
    _context: Any
    _is_isolated: bool
    _is_shared: bool
    asks_for_experiment: bool
    recorder: Any
    otlp: tuple[OtelSpanProcessor, ...]

    @classmethod
    def find(cls) -> Tracer:
        """Ask MLflow, which makes its provider if it has none."""
        tracer = provider._get_tracer("dspy_mlflow_callbacks")
        if isinstance(tracer, SdkTracer):
            tracer.id_generator = ids
        is_isolated = provider.MLFLOW_USE_DEFAULT_TRACER_PROVIDER.get()
        is_shared = is_isolated and shares_context()
        of_provider = provider.provider.get()
        processors = getattr(getattr(of_provider, "_active_span_processor", None), "_span_processors", ())
        asks = any(isinstance(each, MlflowV3SpanProcessor) for each in processors)  # others need no experiment
        otlp = tuple(each for each in processors if isinstance(each, OtelSpanProcessor))
        recorder = None if is_shared else Recorder.find(of_provider)
        return cls(of_provider, tracer, provider.get_context_api(), is_isolated, is_shared, asks, recorder, otlp)

    @property
    def is_on(self) -> bool:
        """Whether MLflow traces: its tracing is not disabled."""
        return isinstance(self.tracer, SdkTracer)

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

    @property
    def now(self) -> Tracer | None:
        """What was found before, if it is still MLflow's; nothing is opened for it."""
        known = self._known
        return known if known is not None and known.is_current else None

    def __call__(self) -> Tracer:
        known = self._known
        if known is None or not known.is_current:
            # With another setting it is another search, however slowly the one before failed.
            isolation = os.environ.get("MLFLOW_USE_DEFAULT_TRACER_PROVIDER", "")
            self._known = known = self._search(f"{mlflow.get_tracking_uri()} {isolation}", Tracer.find)
        return known


tracer = _CurrentTracer()
