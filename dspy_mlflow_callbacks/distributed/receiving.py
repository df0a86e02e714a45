"""What runs for another process: it continues that one's trace, under the rules of both."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import orjson
from opentelemetry import baggage
from opentelemetry import trace as otel
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from dspy_mlflow_callbacks import dspy_internals
from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.callbacks import TracingCallback
from dspy_mlflow_callbacks.config import stricter
from dspy_mlflow_callbacks.distributed.baggage import PARTS, Belongings, belongings_in
from dspy_mlflow_callbacks.distributed.texts import Headers, well_formed
from dspy_mlflow_callbacks.middleware.tags import SESSION, USER
from dspy_mlflow_callbacks.scoped import Scoped
from dspy_mlflow_callbacks.spans.remote_traces import REMOTE_TRACES
from dspy_mlflow_callbacks.stats import WarnOnce

_TRACE_CONTEXT, _BAGGAGE = TraceContextTextMapPropagator(), W3CBaggagePropagator()
_WARN = WarnOnce()


def continue_trace(headers: Headers | None, *, allow: Iterable[str] = PARTS) -> ContinuedTrace:
    """Return a scope in which the trace goes on that another process sent *headers* of.

    Use it with `with` or `async with`, or as a decorator of a function, a coroutine function or a (sync or async)
    generator function. What runs inside is below the other process's span, in its trace; it is stored from here, in the
    tracking store of this process, whenever it ends. Many processes and threads may do so at once. Where headers are
    missing or malformed, what runs inside begins traces of its own.

    Headers made by `inject_headers`, by `mlflow.tracing.get_tracing_context_headers_for_http_request`, or by any
    OpenTelemetry instrumentation will do. They may say, as far as *allow* lets them:

    - `trace`: the trace, the span in it, and whether it is recorded. What is not recorded there is not here either.
    - `experiment`, `run`: where a trace is kept that is not stored yet; MLflow's ids.
    - `session`, `user`, `tags`: of traces that begin inside, and of headers that go on from here. MLflow's own tags
      (`mlflow.*`) are refused.
    - `config`: the options that narrow what is recorded, for the callbacks in DSPy's settings. They are joined with
      what holds here, and the stricter of both holds: headers never switch redaction off, or capturing on.

    Nothing else of them is read; above all they do not say where traces are stored.

    Args:
        headers: A mapping of names to values in any case, or pairs of them; texts or bytes.
        allow: What headers may say. Before strangers leave out what they should not; `()` reads nothing.

    Raises:
        TypeError: if *headers* are neither a mapping nor pairs.
        ValueError: if *allow* names something else.

    Example:
        ```python
        def handle(request):
            with continue_trace(request.headers):
                return program(question=request.json["question"])
        ```
    """
    parts = checked_parts(allow)
    carrier = well_formed({} if headers is None else headers)
    if "trace" not in parts:
        carrier = {name: value for name, value in carrier.items() if name == "baggage"}
    return ContinuedTrace(carrier, parts)


def checked_parts(allow: Iterable[str]) -> frozenset[str]:
    """Return what headers may say.

    Raises:
        ValueError: if it names something else.
    """
    parts = frozenset((allow,) if isinstance(allow, str) else allow)
    unknown = sorted(map(str, parts.difference(PARTS)))
    if unknown:
        message = f"allow must be of {', '.join(PARTS)}, got {', '.join(unknown)}"
        raise ValueError(message)
    return parts


class ContinuedTrace(Scoped):
    """What `continue_trace` returns: a context manager, sync and async, and a decorator."""

    called = "continue_trace"

    def __init__(self, carrier: dict[str, str], parts: frozenset[str]) -> None:
        super().__init__()
        self._carrier = carrier
        self._parts = parts

    def __repr__(self) -> str:
        return f"ContinuedTrace({self._carrier.get('traceparent', 'a new trace')})"

    def _begun(self) -> _Opened:
        opened = _Opened()
        try:
            opened.open(self._carrier, self._parts)
        except Exception as error:  # noqa: BLE001  (the program's own work: it must run)
            _WARN(type(error), f"Another process's trace is not continued: {error!r}", error)
        return opened

    def _innermost(self) -> _Opened:
        scopes = {id(opened.scope): opened for opened in self._open}
        here = (scopes[id(scope)] for scope in internals.open_scopes() if id(scope) in scopes)
        opened: _Opened = next(here, self._open[-1])
        return opened


class _Opened:
    """All that holds while another process's trace goes on here; what was put in place last leaves first."""

    def __init__(self) -> None:
        self.scope: Any = None
        self._undo: list[Any] = []

    def open(self, carrier: dict[str, str], parts: frozenset[str]) -> None:
        context = _BAGGAGE.extract(carrier, _TRACE_CONTEXT.extract(carrier, _outside()))
        belongings = belongings_in(context).allowed(parts)
        run = None
        if belongings.run is not None and belongings.experiment is not None:
            run = internals.run_of_id(belongings.run, belongings.experiment)
        self._undo.append(dspy_internals.OutsideCalls().close)
        self._undo.append(internals.ContextScope(context, run, belongings.experiment).close)
        ids = {SESSION: belongings.session, USER: belongings.user}
        metadata = {key: text for key, text in ids.items() if text is not None}
        self.scope = internals.TraceScope(dict(belongings.tags), metadata, None)
        self._undo.append(self.scope.close)
        self._narrow(belongings)
        remote = otel.get_current_span(context).get_span_context()
        if remote.is_valid and remote.trace_flags.sampled:
            REMOTE_TRACES.join(remote.trace_id, belongings.experiment)
            self._undo.append(functools.partial(REMOTE_TRACES.leave, remote.trace_id))

    def _narrow(self, belongings: Belongings) -> None:
        callbacks = dspy_internals.settings.get("callbacks", [])
        if belongings.config and not isinstance(callbacks, dspy_internals.OthersOnly):
            said = orjson.dumps(belongings.config, option=orjson.OPT_SORT_KEYS).decode()
            narrowed = [_narrowed(each, said) if isinstance(each, TracingCallback) else each for each in callbacks]
            if narrowed != list(callbacks):
                self._undo.append(dspy_internals.SettingsOverride(callbacks=narrowed).undo)

    def close(self) -> None:
        while self._undo:
            undo = self._undo.pop()
            try:
                undo()
            except Exception as error:  # noqa: BLE001  (the program's own work: it goes on)
                _WARN(type(error), f"Another process's trace is not left as it should be: {error!r}", error)


def _outside() -> Context:
    """Return MLflow's context without a span, and without what somebody else's baggage says."""
    return baggage.clear(otel.set_span_in_context(INVALID_SPAN, internals.current_context()))


@functools.lru_cache(maxsize=64)
def _narrowed(callback: TracingCallback, said: str) -> TracingCallback:
    config = stricter(callback.config, orjson.loads(said))
    return callback if config == callback.config else callback.narrowed(config)
