"""The traces of a test, as a test wants to ask for them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import mlflow
from mlflow.entities import Span, Trace

from dspy_mlflow_callbacks.events import CallKind

Tree = list[tuple[str, str, str, Any]]


class CapturedTraces:
    """The traces of one test, in the order in which they began."""

    def __init__(self, experiment_id: str) -> None:
        self.experiment_id = experiment_id

    def all(self) -> list[Trace]:
        """Return all traces that were stored so far, each as an `mlflow.entities.Trace`."""
        mlflow.flush_trace_async_logging()
        traces = mlflow.search_traces(locations=[self.experiment_id], return_type="list")
        return sorted(traces, key=lambda trace: min(span.start_time_ns for span in trace.data.spans))

    def one(self) -> Trace:
        """Return the only trace.

        Raises:
            AssertionError: if there is none or more than one; it says which there are.
        """
        traces = self.all()
        if len(traces) != 1:
            message = f"expected one trace, got {len(traces)}: {[tree(trace) for trace in traces]}"
            raise AssertionError(message)
        return traces[0]

    def spans(self, *, kind: CallKind | str | None = None, name: str | None = None) -> list[Span]:
        """Return the spans of all traces in the order in which they started.

        Args:
            kind: Only those of this kind, such as `CallKind.LM` or `"lm"`.
            name: Only those of this name.

        Raises:
            ValueError: if *kind* is no kind of call.
        """
        wanted = None if kind is None else CallKind(kind).value
        spans = [span for trace in self.all() for span in trace.data.spans]
        return [
            span
            for span in sorted(spans, key=_started)
            if wanted in (None, span.get_attribute("dspy.kind")) and name in (None, span.name)
        ]

    def tree(self) -> Tree:
        """Return the only trace as `[(name, span type, status, [children]), …]`, for one `assert` to compare.

        Raises:
            AssertionError: if there is not exactly one trace.
        """
        return tree(self.one())


def tree(trace: Trace) -> Tree:
    """Return *trace* as `[(name, span type, status, [children]), …]`, children in the order in which they started."""
    return _children(sorted(trace.data.spans, key=_started), None)


def _children(spans: Iterable[Span], parent_id: str | None) -> Tree:
    return [
        (span.name, span.span_type, span.status.status_code.value, _children(spans, span.span_id))
        for span in spans
        if span.parent_id == parent_id
    ]


def _started(span: Span) -> int:
    started: int = span.start_time_ns
    return started
