"""Light spans: they cost next to nothing, and turn into MLflow's live spans when somebody looks at them.

A light span is a span of OpenTelemetry's API and a `ReadableSpan` of its SDK, so that it can stand in MLflow's context
and be stored. `attributes` and `get_span_context()` are what MLflow, OpenTelemetry and other libraries ask the active
span for: then it is promoted, with the spans above it, and all that MLflow promises of a live span holds.
"""

from __future__ import annotations

import copy
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType, TracebackType
from typing import Any

from opentelemetry import trace as otel
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.events import NOT_ENDED
from dspy_mlflow_callbacks.forks import FORKS

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_UNSET = Status(StatusCode.UNSET)
_NOT_ENDED = Status(StatusCode.ERROR, NOT_ENDED)
_NO_RESOURCE = Resource({})

# Rare, and it reaches into the spans above and into MLflow's memory: one at a time.
_PROMOTION = FORKS.rlock()


class LightSpan(ReadableSpan, otel.Span):
    """A span that is open, or has ended and waits to be delivered.

    Args:
        name: Its name.
        trace: What it shares with the spans of its trace.
        span_id: 64 random bits.
        above: The light span it nests in; None where there is none.
        outer: OpenTelemetry's context of the span it nests in, where that is none of ours.
    """

    # What OpenTelemetry's classes read of a span, where it is the same for all of ours.
    _status = _UNSET
    _kind = SpanKind.INTERNAL
    _resource = _NO_RESOURCE
    _links: Any = ()
    _events: Any = ()
    _end_time: int | None = None
    _texts: dict[str, Any] | None = None
    _instrumentation_scope = None
    _instrumentation_info = None

    # What `Tracing` reads of an engine's span.
    records = True

    is_delivered = False
    """Whether the span has left, or is on its way, before its trace has ended."""

    is_announced = False
    """Whether it was handed over while it was open."""

    _known_context: SpanContext | None = None
    _is_live = False

    def __init__(
        self,
        name: str,
        trace: Any,
        span_id: int,
        *,
        above: LightSpan | None,
        outer: SpanContext | None,
    ) -> None:
        self._name = name
        self.trace = trace
        self.above = above
        self._outer = outer
        self.span_id = span_id
        self._start_time = time.time_ns()

    def __repr__(self) -> str:
        return f"LightSpan({self._name!r}, {self.span_id:016x})"

    @abstractmethod
    def described(self) -> dict[str, Any]:
        """Return the attributes as the call gives them, JSON texts by name; asked once, when they are needed."""
        ...

    @property
    def _attributes(self) -> dict[str, Any]:  # type: ignore[override]  # where OpenTelemetry's class keeps it
        texts = self._texts
        if texts is None:
            with _PROMOTION:
                texts = self._texts
                if texts is None:  # pragma: no branch  (else another thread was faster)
                    texts = self._texts = self.described()
        return texts

    @property
    def texts(self) -> dict[str, Any]:
        """The attributes themselves; to ask for them is no look."""
        return self._attributes

    @property
    def context(self) -> SpanContext:
        """OpenTelemetry's context of the span; to ask for it is no look."""
        known = self._known_context
        if known is None:
            trace = self.trace
            known = SpanContext(trace.otel_id, self.span_id, False, _SAMPLED, trace.trace_state)  # noqa: FBT003
            self._known_context = known
        return known

    _context = context  # where OpenTelemetry's class keeps it

    @property
    def parent(self) -> SpanContext | None:
        """OpenTelemetry's context of the span it nests in; None for a root."""
        return self._outer if self.above is None else self.above.context

    _parent = parent  # where OpenTelemetry's class keeps it

    def get_span_context(self) -> SpanContext:
        """Return OpenTelemetry's context: who asks starts a span below, or sends the ids somewhere."""
        self.promote()
        return self.context

    @property
    def attributes(self) -> Mapping[str, Any]:
        """The attributes: who asks while the span is open looks for MLflow's live span."""
        self.promote()
        return MappingProxyType(self._attributes)

    def promote(self) -> None:
        """Become a live span of MLflow's, unless the span is one or has ended."""
        if self._end_time is not None or (self._is_live and self.trace.is_in_memory()):
            return
        with _PROMOTION:
            if self.above is not None:
                self.above.promote()
            entry = self.trace.promoted()
            if not self._is_live:
                self._is_live = True
                internals.register_span(self, entry)

    def so_far(self) -> LightSpan:
        """Return a copy of the span, which is open, that has ended now without its end."""
        copied = copy.copy(self)
        said = {"_texts": self.texts.copy(), "_status": _NOT_ENDED, "_end_time": time.time_ns()}
        vars(copied).update(said)
        return copied

    def is_recording(self) -> bool:
        """Return whether the span is open."""
        return self._end_time is None

    def set_attribute(self, key: str, value: Any) -> None:
        """Set an attribute, as OpenTelemetry's SDK does."""
        self.set_attributes({key: value})

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set attributes, as OpenTelemetry's SDK does."""
        if self._end_time is None:
            checked: Mapping[str, Any] = BoundedAttributes(attributes=attributes, immutable=False)
            self._attributes.update(checked)

    def replace_attribute(self, key: str, value: Any) -> None:
        """Set an attribute of a span that may have ended."""
        self._attributes[key] = value

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        """Add an event, as OpenTelemetry's SDK does."""
        if self._end_time is None:
            self._events = [*self._events, Event(name, BoundedAttributes(attributes=attributes), timestamp)]

    def add_link(self, context: SpanContext, attributes: Any = None) -> None:
        """Add a link, as OpenTelemetry's SDK does: one to nothing that says nothing is none."""
        if self._end_time is None and (context.is_valid or attributes or context.trace_state):
            self._links = [*self._links, otel.Link(context, BoundedAttributes(attributes=attributes))]

    def update_name(self, name: str) -> None:
        """Give the span another name."""
        if self._end_time is None:
            self._name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Set the status, as OpenTelemetry's SDK does: OK is final, and nothing is unset."""
        new = status if isinstance(status, Status) else Status(status, description)
        is_open = self._end_time is None and self._status.status_code is not StatusCode.OK
        if is_open and new.status_code is not StatusCode.UNSET:
            self._status = new

    def record_exception(
        self,
        exception: BaseException,
        attributes: Any = None,
        timestamp: int | None = None,
        escaped: bool = False,  # noqa: FBT001, FBT002  (OpenTelemetry's signature)
    ) -> None:
        """Add the event of an exception, as OpenTelemetry's SDK does."""
        sdk: Callable[..., None] = SdkSpan.record_exception  # it needs no more of a span than `add_event`
        sdk(self, exception, attributes, timestamp, escaped)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the span, as OpenTelemetry's SDK does: with the exception that left the block, if one did."""
        if error is not None and self.is_recording():
            self.record_exception(error, escaped=True)
            self.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))
        super().__exit__(kind, error, traceback)

    def end(self, end_time: int | None = None) -> None:
        """End the span; the second time is none."""
        if self._end_time is None:
            self._end_time = time.time_ns() if end_time is None else end_time
