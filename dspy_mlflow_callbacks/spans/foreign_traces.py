"""Parts of traces that somebody else began."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from opentelemetry import trace as otel

from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.export.waiting import Outcome, Prepared
from dspy_mlflow_callbacks.spans.light_spans import LightSpan
from dspy_mlflow_callbacks.spans.recorded_traces import RecordedTrace, Settings, not_delivered


class ForeignTrace(RecordedTrace):
    """The part of a trace that a program adds to it: below the user's own MLflow span, or a remote parent.

    The trace's own facts are of whoever began it.
    """

    def __init__(
        self, tracer: internals.Tracer, outer: otel.SpanContext, settings: Settings, experiment_id: str
    ) -> None:
        otel_id = outer.trace_id
        super().__init__(tracer, otel_id, settings, experiment_id)
        self.trace_state = outer.trace_state
        self._is_remote = outer.is_remote
        self._entry = internals.trace_entry(otel_id)
        if self._entry is not None:
            self.trace_id = self._entry.info.trace_id
            if self._entry.info.trace_location is not None:  # it is None below a remote parent
                self._experiment_id = self._entry.info.experiment_id or experiment_id

    def _register(self) -> Any:
        self._is_put_back = True
        info = internals.new_info(self.trace_id, self.spans[0], self._experiment_id, {}, {})
        return internals.register_trace(self.otel_id, info, is_remote=True)

    def say(self, tags: Mapping[str, str], metadata: Mapping[str, str]) -> None:
        """Add tags and metadata to the trace, where MLflow has it."""
        if self._entry is not None:
            self._entry.info.tags.update(tags)
            self._entry.info.trace_metadata.update(metadata)

    def _announce_open(self) -> None:
        """Hand over what is open: the spans below it have their parents, and say what became of them, if this dies."""
        if not self._is_remote:
            return
        still_open = StillOpen(self, [span for span in self.spans if span.is_recording() and not span.is_announced])
        if still_open.spans:
            # Not by the spool: from there it could come after the spans' ends.
            self._settings.exporter.put(still_open, attrs.evolve(self._settings.limits, spool=None, on_full="drop"))

    def end(self) -> None:
        """Hand the part over: its first span has ended."""
        self.is_over = True
        self._end_open()
        if self.is_in_memory() and not self._entry.is_remote_trace:
            for span in self._ended():  # MLflow adds up the tokens of what it has in memory
                internals.register_span(span, self._entry)
            if not self._is_put_back:
                internals.export_if_held_back(self._entry, self.tracer.recorder.processor)
        if self._is_put_back and self.is_in_memory():
            self._leave_memory()
        self._deliver(at_once=internals.note_evaluated({}, self.trace_id))

    def _prepared(self) -> Prepared:
        spans = not_delivered(self._ended())
        self.run_steps(spans)
        # What a look has put into MLflow's memory leaves it with this part, stored by MLflow's exporter or not.
        others = self._ended_others() if self._is_put_back else []
        return Prepared(trace_id=self.trace_id, spans=[*spans, *others], feedback=self._feedback())


class StillOpen:
    """Spans that are open, as spans that have not ended: their ends, if they come, are stored in their places.

    Args:
        trace: The trace.
        spans: The spans.
    """

    size = 0

    def __init__(self, trace: ForeignTrace, spans: list[LightSpan]) -> None:
        self._trace = trace
        self.spans = spans
        self.destination = trace.destination
        for span in spans:
            span.is_announced = True

    def prepared(self) -> Prepared | None:
        """Return what leaves; None if all have ended meanwhile."""
        announced = [span.so_far() for span in self.spans if span.is_recording()]
        for span in announced:
            self._trace.make_ready(span)
        self._trace.run_steps(announced)
        return Prepared(trace_id=self._trace.trace_id, spans=announced) if announced else None

    def done(self, outcome: Outcome, error: Exception | None = None) -> None:
        """Hear what became of it: what is not stored matters only if this process dies."""
