"""What is sent along with a call to another process: the trace it is part of, and what that belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from opentelemetry import trace as otel
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from dspy_mlflow_callbacks import dspy_internals
from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.callbacks import TracingCallback
from dspy_mlflow_callbacks.config import narrowing
from dspy_mlflow_callbacks.distributed.baggage import Belongings, with_belongings
from dspy_mlflow_callbacks.distributed.texts import well_formed
from dspy_mlflow_callbacks.events import EMPTY
from dspy_mlflow_callbacks.middleware.tags import SESSION, USER
from dspy_mlflow_callbacks.payload import Payload, PayloadSteps, Redactor
from dspy_mlflow_callbacks.stats import WarnOnce

Carrier = TypeVar("Carrier", bound=Any)

_TRACE_CONTEXT, _BAGGAGE = TraceContextTextMapPropagator(), W3CBaggagePropagator()
_DEFAULT_STEPS = PayloadSteps([Redactor()])
_WARN = WarnOnce()


def inject_headers(carrier: Carrier | None = None) -> Carrier:
    """Write the headers into *carrier* with which another process continues the trace that is running here.

    They are those of W3C: `traceparent` and `tracestate` (https://www.w3.org/TR/trace-context/) say which span the
    other process's work is below and whether the trace is recorded at all, and `baggage` says the experiment, run,
    session, user and tags of the trace, and the options that narrow what is recorded of it (`level`, `exclude`,
    `capture_*`, `redact*`, `max_payload_chars`). Inputs, outputs and messages never travel, and what the payload steps
    redact does not either.

    Where no trace runs, there is no `traceparent`, and the rest is of traces that begin there.

    Args:
        carrier: A mapping that texts can be put into, such as a dict or the headers of a request; None is a new dict.
            Baggage that it has stays.

    Returns:
        *carrier*.

    Raises:
        TypeError: if *carrier* is no such mapping.

    Example:
        ```python
        requests.post(url, json={"question": question}, headers=inject_headers())
        ```
    """
    target: Any = {} if carrier is None else carrier
    if not (hasattr(target, "__setitem__") and hasattr(target, "items")):
        message = f"carrier must be a mapping that texts can be put into, got {carrier!r}"
        raise TypeError(message)
    try:
        _inject(target)
    except Exception as error:  # noqa: BLE001  (the program's own call: it must go out)
        _WARN(type(error), f"A call to another process goes out without its trace: {error!r}", error)
    return target  # type: ignore[no-any-return]  # the dict that was made, where none was given


def _inject(carrier: Any) -> None:
    active = internals.tracer().current_span()
    context = active.get_span_context()  # a look: MLflow has the trace in memory from here on
    entry = internals.trace_entry(context.trace_id) if context.is_valid else None
    if entry is not None:
        internals.share(entry)
    around = otel.set_span_in_context(_sent(active), internals.current_context())
    around = with_belongings(_BAGGAGE.extract(well_formed(carrier), around), _belongings(entry))
    _TRACE_CONTEXT.inject(carrier, around)
    _BAGGAGE.inject(carrier, around)


def _sent(active: otel.Span) -> otel.Span:
    """Return the span that the other process's work is below: one that is not sampled where nothing is recorded."""
    if not internals.is_suppressed():
        return active
    context = active.get_span_context()
    trace_id = context.trace_id or internals.ids.generate_trace_id()
    span_id = context.span_id or internals.ids.generate_span_id()
    return otel.NonRecordingSpan(otel.SpanContext(trace_id, span_id, is_remote=False))


def _belongings(entry: Any) -> Belongings:
    callback = _governing()
    scope = internals.current_scope()
    tags = {} if scope is None else dict(scope.tags)
    metadata = {} if scope is None else dict(scope.metadata)
    if entry is not None:
        tags.update(entry.info.tags)
        metadata.update(entry.info.trace_metadata)
    steps = _DEFAULT_STEPS if callback is None else callback.payload_steps
    ids = _without_secrets(steps, "metadata", {key: metadata[key] for key in (SESSION, USER) if key in metadata})
    return Belongings(
        experiment=_experiment_id(entry, callback),
        run=metadata.get(internals.SOURCE_RUN) or _run_id(),
        session=ids.get(SESSION),
        user=ids.get(USER),
        tags=_without_secrets(steps, "tag", {key: tags[key] for key in tags if not key.startswith("mlflow.")}),
        config=EMPTY if callback is None else narrowing(callback.config),
    )


def _governing() -> TracingCallback | None:
    """Return the callback that says what is recorded here."""
    callbacks: Iterable[Any] = dspy_internals.settings.get("callbacks", [])
    return next((each for each in callbacks if isinstance(each, TracingCallback) and each.config.enabled), None)


def experiment_id(own: Iterable[Any] = ()) -> str | None:
    """Return the id of the experiment of traces that begin here; None if the store does not say, or there are none.

    Args:
        own: Callbacks of the program itself, which go before those in DSPy's settings.
    """
    callback = next((each for each in own if isinstance(each, TracingCallback)), None) or _governing()
    return None if callback is None else _experiment_id(None, callback)


def _experiment_id(entry: Any, callback: TracingCallback | None) -> str | None:
    if entry is not None and entry.info.trace_location is not None:
        return str(entry.info.experiment_id)
    carried = internals.carried_experiment()
    if carried is not None:
        return carried
    return internals.active_experiment_id() if callback is None else callback.experiment_id()


def _run_id() -> str | None:
    run = internals.calling_run()
    return None if run is None else str(run.info.run_id)


def _without_secrets(steps: PayloadSteps, place: Any, texts: Mapping[str, str]) -> dict[str, str]:
    payloads = [Payload(place=place, name=key, text=str(text), is_json=False) for key, text in texts.items()]
    leaving = steps.run(payloads, _note_failure)
    return dict(zip(texts, (payload.text for payload in leaving), strict=True))


def _note_failure(error: Exception) -> None:
    _WARN(str(error), f"A payload step failed; what it was to see does not travel: {error}", error)
