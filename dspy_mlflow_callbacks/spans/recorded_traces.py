"""Traces of light spans: what their spans share, and how what has ended leaves."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import attrs
from opentelemetry.trace import Status, StatusCode, TraceState

from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.events import NOT_ENDED, Feedback
from dspy_mlflow_callbacks.export.exporter import EXPORTER, Exporter
from dspy_mlflow_callbacks.export.waiting import Destination, Limits, Outcome, Prepared, Waiting
from dspy_mlflow_callbacks.payload import PayloadSteps
from dspy_mlflow_callbacks.spans.feedback import leaving_feedback
from dspy_mlflow_callbacks.spans.late_spans import LateSpans
from dspy_mlflow_callbacks.spans.leaving import are_clear, run_steps, span_content
from dspy_mlflow_callbacks.spans.light_spans import LightSpan
from dspy_mlflow_callbacks.stats import Counters
from dspy_mlflow_callbacks.tail_sampling import TailSampler

# What a span holds beside its inputs and outputs, roughly.
_SPAN_BYTES = 2048


@attrs.frozen(eq=False, kw_only=True)
class Settings:
    """What a callback says of the content and the delivery of its traces.

    Attributes:
        payload_steps: What runs on content before it leaves.
        on_loss: Told of what payload steps and delivery lost.
        counters: Where stored traces are counted.
        limits: How much may wait.
        max_open_s: After how many seconds a trace that is open is stored so far.
        tail_sampler: Decides which ended traces are kept; None keeps all.
        exporter: Delivers what has ended.
    """

    payload_steps: PayloadSteps
    on_loss: Callable[[Exception], object]
    counters: Counters
    limits: Limits
    max_open_s: float
    tail_sampler: TailSampler | None = None
    exporter: Exporter = EXPORTER


_NOT_ENDED = Status(StatusCode.ERROR, NOT_ENDED)


class RecordedTrace(ABC):
    """What the light spans of a trace, or of a part of one, share.

    Args:
        tracer: Where MLflow sent traces when it began.
        otel_id: OpenTelemetry's id of the trace.
        settings: Those of the callback with which it began.
        experiment_id: The experiment that it goes to.

    Attributes:
        spans: All spans, as they began; the first one is the root of what is recorded.
        judged: Spans that have ended, each with what a metric says of it.
        size: Roughly how many bytes it holds.
        is_inherited: Whether this process is a fork of the one that began it, and delivers it.
    """

    trace_state: TraceState | None = None  # OpenTelemetry's, where the trace came with one
    is_inherited = False
    is_shared = False  # whether spans may come when it has been handed over
    is_over = False  # its first span has ended

    def __init__(self, tracer: internals.Tracer, otel_id: int, settings: Settings, experiment_id: str) -> None:
        self.tracer = tracer
        self.otel_id = otel_id
        self.trace_id = f"tr-{otel_id:032x}"
        self.spans: list[Any] = []
        self.judged: list[tuple[Any, Feedback]] = []
        self.payload_size = 0
        self._settings = settings
        self._experiment_id = experiment_id
        self._workspace = internals.workspace()
        self._entry: Any = None  # MLflow's, once somebody has looked
        self._is_put_back = False  # into MLflow's memory, by a look
        self._is_dropped = False  # by the tail sampler
        self._delivered_at = time.monotonic()

    @property
    def size(self) -> int:
        """Roughly how many bytes it holds."""
        return self.payload_size + _SPAN_BYTES * len(self.spans)

    @property
    def destination(self) -> Destination:
        """Where it goes."""
        return Destination(
            tracking_uri=self.tracer.recorder.tracking_uri,
            experiment_id=self._experiment_id,
            workspace=self._workspace,
        )

    def promoted(self) -> Any:
        """Return MLflow's entry of the trace, which is in MLflow's memory now."""
        if self._entry is None:
            self._entry = self._register()
        elif not self.is_in_memory():
            internals.put_back(self.otel_id, self._entry)
            self._is_put_back = True
        return self._entry

    def is_in_memory(self) -> bool:
        """Return whether MLflow has the trace in memory, as it has until it has stored it or has too many."""
        return self._entry is not None and internals.is_in_memory(self._entry)

    @abstractmethod
    def _register(self) -> Any: ...

    @abstractmethod
    def say(self, tags: Mapping[str, str], metadata: Mapping[str, str]) -> None:
        """Add tags and metadata to the trace."""
        ...

    @abstractmethod
    def end(self) -> None:
        """Hand the trace over: its first span has ended."""
        ...

    def prepared(self) -> Prepared | None:
        """Return what leaves; see `export.waiting.Waiting`."""
        try:
            return self._prepared()
        except Exception as error:
            self._settings.on_loss(error)  # the exporter counts the trace as lost, and does not say why
            raise
        finally:
            # Each knows the trace too: a ring, which only the garbage collector would find.
            self.spans, self.judged = [], []

    @abstractmethod
    def _prepared(self) -> Prepared | None: ...

    def done(self, outcome: Outcome, error: Exception | None = None) -> None:
        """Hear what became of the trace; see `export.waiting.Waiting`."""
        counters = self._settings.counters
        if outcome in ("stored", "spooled"):
            (counters.stored if outcome == "stored" else counters.spooled)()
        elif outcome != "dropped" or not self._is_dropped:
            counters.lost()
            if outcome == "rejected":
                counters.dead_lettered()

    def look(self) -> None:
        """Hand over the spans that have ended since the last time, if that was long ago."""
        now = time.monotonic()
        is_due = now - self._delivered_at >= self._settings.max_open_s
        # A tail sampler has to decide about all of it.
        if is_due and self._settings.tail_sampler is None and not self.is_inherited:
            self._delivered_at = now
            self._announce_open()
            part = PartOfTrace(self, not_delivered(self._ended()))
            if part.spans:
                self._settings.exporter.put(part, self._settings.limits)

    def _announce_open(self) -> None:  # noqa: B027  (a trace of one's own does not)
        """Hand over what is open, where nobody else would if this process died; a trace of its own is in progress."""

    def deliver_late(self, span: Any) -> None:
        """Hand over a span that has ended after the trace's first one."""
        if self._is_dropped or span.is_delivered:
            return
        self.make_ready(span)
        if self.is_in_memory():
            self._leave_memory()
        self._hand_over(LatePart(self, [span]), at_once=False)

    def _end_open(self) -> None:
        """End what is still open: calls that stand in the trace by MLflow's context alone, which `Tracing` ends not.

        A trace that is shared may have spans that go on.

        Their parent is of a kind that nobody records, such as a tool's where a callback hears LMs only.
        """
        for span in () if self.is_shared else self.spans:
            if span.is_recording():
                span.set_status(_NOT_ENDED)
                span.end()

    def _leave_memory(self) -> None:
        """Take the trace out of MLflow's memory, unless MLflow's exporter has more of it to store."""
        if self._entry is None:
            return
        if internals.has_open_spans(self._entry):
            LateSpans(self.otel_id, self._entry, self.tracer.recorder.processor).wait()
        else:
            internals.forget_trace(self.otel_id, self._entry)

    def _deliver(self, *, at_once: bool) -> None:
        self._hand_over(self, at_once=at_once)

    def _hand_over(self, waiting: Waiting, *, at_once: bool) -> None:
        if at_once or self.tracer.recorder.is_synchronous:
            self._settings.exporter.deliver_now(waiting, self._settings.limits)
        else:
            self._settings.exporter.put(waiting, self._settings.limits)

    def _ended(self) -> list[Any]:
        """Return the light spans that have ended, which can leave but for their content."""
        ended = [span for span in self.spans if span.end_time is not None]
        for span in ended:
            self.make_ready(span)
        return ended

    def make_ready(self, span: Any) -> None:
        """Let a span say what all that leave do."""
        span.replace_attribute(internals.REQUEST_ID, f'"{self.trace_id}"')
        if self.tracer.recorder.is_database:
            internals.settle_cost(span.texts)

    def _ended_others(self) -> list[Any]:
        """Return OpenTelemetry's spans of the user's own that have ended, where they are MLflow's."""
        others = [] if self._entry is None else internals.others_spans(self._entry, LightSpan)
        return [internals.otel_span(span) for span in others if span.end_time_ns is not None]

    def _feedback(self) -> Sequence[internals.Feedback]:
        """Return what metrics say, once the payload steps of each callback have run on it."""
        return [
            leaving_feedback(span, feedback, span.settings.payload_steps, span.settings.on_loss)
            for span, feedback in self.judged
            if self._entry is None or not internals.is_said(self._entry.info, feedback.name)
        ]

    def run_steps(self, spans: Iterable[Any]) -> None:
        """Run the payload steps of each callback on its spans."""
        for settings, own in by_settings(spans):
            if settings.payload_steps and not are_clear(own, settings.payload_steps):
                content = chain.from_iterable(span_content(span, span.replace_attribute) for span in own)
                run_steps(settings.payload_steps, content, settings.on_loss)


class PartOfTrace:
    """Spans that have ended while their trace goes on: they are stored as a trace in progress.

    Args:
        trace: The trace.
        spans: The spans, which leave with this part and not with the rest.
    """

    def __init__(self, trace: RecordedTrace, spans: list[Any]) -> None:
        self._trace = trace
        self.spans = spans
        self.destination = trace.destination
        self.size = _SPAN_BYTES * len(spans)
        for span in spans:
            span.is_delivered = True

    def prepared(self) -> Prepared:
        """Return what leaves."""
        self._trace.run_steps(self.spans)
        return Prepared(trace_id=self._trace.trace_id, spans=self.spans)

    def done(self, outcome: Outcome, error: Exception | None = None) -> None:
        """Hear what became of the part: what is not stored leaves again with the rest."""
        if outcome not in ("stored", "spooled"):
            for span in self.spans:
                span.is_delivered = False


class LatePart(PartOfTrace):
    """A span that has ended after its trace was handed over: it leaves alone."""

    def done(self, outcome: Outcome, error: Exception | None = None) -> None:
        """Hear what became of it; see `export.waiting.Waiting`."""
        if outcome != "stored":
            self._trace.done(outcome, error)


def not_delivered(spans: Iterable[Any]) -> list[Any]:
    """Return the spans that have not left before their trace ended."""
    return [span for span in spans if not span.is_delivered]


def by_settings(spans: Iterable[Any]) -> Iterator[tuple[Settings, list[Any]]]:
    """Yield the settings of the callbacks that have spans in a trace, each with its spans."""
    by_id: dict[int, tuple[Settings, list[Any]]] = {}
    for span in spans:
        by_id.setdefault(id(span.settings), (span.settings, []))[1].append(span)
    return iter(by_id.values())
