"""What the way of a call opens spans with: for each trace the engine that fits where it goes."""

from __future__ import annotations

from typing import Any

from opentelemetry import trace as otel

from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.events import CallStart, SpanStart
from dspy_mlflow_callbacks.spans import muted
from dspy_mlflow_callbacks.spans.around import decision_of, span_around
from dspy_mlflow_callbacks.spans.delivery_watch import DELIVERY_WATCH
from dspy_mlflow_callbacks.spans.experiments import ChosenExperiment
from dspy_mlflow_callbacks.spans.muted import Muted
from dspy_mlflow_callbacks.spans.native import NativeEngine, NativeSpan
from dspy_mlflow_callbacks.spans.recorded import RecordedEngine, RecordedSpan
from dspy_mlflow_callbacks.spans.recorded_traces import Settings
from dspy_mlflow_callbacks.stats import WarnOnce

ENGINES = ("auto", "recorded", "native")

NEW_TRACE = otel.INVALID_SPAN
"""What stands above a call with which a trace begins, whatever MLflow's context holds."""

# Once for the process: which engine serves is a matter of where MLflow sends traces, not of a callback.
_WARN = WarnOnce()

OpenSpan = RecordedSpan | NativeSpan | Muted

_BESIDE = "MLflow has span processors beside its own"


class Engine:
    """Opens spans. A span of a trace is made by the engine with which the trace began.

    Args:
        settings: What the callback says of content and delivery.
        experiment: Name or id of the experiment of traces that begin here; None is MLflow's active one.
        name: `auto` takes the recorded engine where traces go to a tracking store, and the native one elsewhere;
            `recorded` says so if it has to; `native` takes the native one. A release of MLflow in which the recorded
            engine does not find what it needs is warned of.

    Raises:
        ValueError: if the recorded engine is asked for and cannot serve where MLflow sends traces now.
    """

    scope = staticmethod(internals.current_scope)
    is_suppressed = staticmethod(internals.is_suppressed)
    is_resumed = staticmethod(internals.is_resumed)
    muted_call_id = staticmethod(muted.muted_call_id)
    unmute = staticmethod(muted.unmute)

    def __init__(self, settings: Settings, experiment: str | None, name: str) -> None:
        DELIVERY_WATCH.start()
        if name == "recorded":
            _check_recorded()
        chosen = ChosenExperiment(experiment)
        self.experiment = chosen.names
        self._name = name
        self._has_tail_sampler = settings.tail_sampler is not None
        self._native = NativeEngine(settings.payload_steps, chosen, settings.on_loss)
        self._recorded = RecordedEngine(settings, chosen)

    def open(self, call: CallStart, start: SpanStart, parent: OpenSpan | otel.Span | None) -> OpenSpan:
        """Open a span below *parent*, or where MLflow's context says, and make it MLflow's active span."""
        if isinstance(parent, RecordedSpan):
            if parent.is_recording():
                return self._recorded.open_below(call, start, parent)
            return muted.mute(otel.INVALID_SPAN, call.call_id)  # it was ended with its trace, which has left
        tracer = internals.tracer()
        above = span_around(tracer.current_span(), _otel(parent))
        if isinstance(above, RecordedSpan):
            return self._recorded.open_below(call, start, above)
        if isinstance(parent, NativeSpan) or not self._records(tracer):
            return self._native.open(call, start, above)
        return self._recorded.open(call, start, above, tracer) or muted.mute(above, call.call_id)

    def share(self, span: RecordedSpan | NativeSpan) -> bool:
        """Let the trace of *span* go on when its root has ended; return whether it may."""
        if self._has_tail_sampler:  # who has to decide about all of it
            return False
        if isinstance(span, RecordedSpan):
            span.trace.is_shared = True
        else:
            entry = internals.trace_entry(span.otel.get_span_context().trace_id)
            if entry is not None:
                internals.share(entry)
        return True

    def mute(self, parent: OpenSpan | otel.Span | None, call_id: str) -> Muted:
        """Record nothing of a call below *parent*, or where MLflow's context says, and of what it calls."""
        return muted.mute(span_around(internals.tracer().current_span(), _otel(parent)), call_id)

    def decision(self, parent: OpenSpan | otel.Span | None) -> bool | None:
        """Return what was decided for the trace that a call would be part of; see `around.decision_of`."""
        return decision_of(internals.tracer().current_span() if parent is None else _otel(parent))

    def choice(self) -> tuple[str, str]:
        """Return which engine traces that begin now get, and why; no store is asked that MLflow has not opened."""
        if self._name == "native":
            return "native", "the option engine asks for it"
        reason = internals.why_not_recorded() or (_BESIDE if _has_more_processors() else None)
        return ("recorded", "traces go to a tracking store") if reason is None else ("native", reason)

    def _records(self, tracer: internals.Tracer) -> bool:
        if self._name == "native":
            return False
        if tracer.recorder is not None and not internals.has_span_processors():
            return True
        if tracer.is_on and (self._name == "recorded" or self._has_tail_sampler or internals.missing_in_mlflow()):
            self._warn_of_native()
        return False

    def _warn_of_native(self) -> None:
        reason = internals.why_not_recorded() or _BESIDE
        effect = " Traces are not sampled by tail_sampler." if self._has_tail_sampler else ""
        _WARN((reason, effect), f"The recorded engine cannot serve here, and the native one does: {reason}.{effect}")


def _has_more_processors() -> bool:
    tracer = internals.tracer.now
    return internals.has_span_processors() or (tracer is not None and tracer.recorder is None)


def _otel(parent: Any) -> Any:
    """Return OpenTelemetry's span of what `Tracing` knows of a call around another."""
    return getattr(parent, "around", parent)


def _check_recorded() -> None:
    reason = internals.why_not_recorded()
    if reason is not None:
        message = f"engine='recorded' cannot serve here: {reason}. engine='auto' takes the native engine where it must."
        raise ValueError(message)
