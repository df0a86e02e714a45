"""The traces of a test, as a test wants to ask for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import mlflow
from mlflow.entities import Span, Trace

from dspy_mlflow_callbacks.events import CallKind
from dspy_mlflow_callbacks.trace_text import trace_text

Tree = list[tuple[str, str, str, Any]]


class CapturedTraces:
    """The traces of one test, in the order in which they began. As a text it shows their trees."""

    def __init__(self, experiment_id: str) -> None:
        self.experiment_id = experiment_id

    def __str__(self) -> str:
        return "\n\n".join(map(trace_text, self.all())) or "no trace"

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

    def spans(
        self, *, kind: CallKind | str | None = None, name: str | None = None, path: str | None = None
    ) -> list[Span]:
        """Return the spans of all traces in the order in which they started.

        Args:
            kind: Only those of this kind, such as `CallKind.LM` or `"lm"`.
            name: Only those of this name.
            path: Only those of the module with this path, such as `Program.generate`, and of what it calls.

        Raises:
            ValueError: if *kind* is no kind of call.
        """
        wanted = None if kind is None else CallKind(kind).value
        spans = [span for trace in self.all() for span in _at(trace.data.spans, path)]
        return [
            span
            for span in sorted(spans, key=_started)
            if wanted in (None, span.get_attribute("dspy.kind")) and name in (None, span.name)
        ]

    def lms(self, *, path: str | None = None) -> list[Span]:
        """Return the spans of LM calls in the order in which they started; see `spans`."""
        return self.spans(kind=CallKind.LM, path=path)

    def tools(self, *, name: str | None = None) -> list[Span]:
        """Return the spans of tool calls in the order in which they started; see `spans`."""
        return self.spans(kind=CallKind.TOOL, name=name)

    def prompts(self, *, path: str | None = None) -> list[Any]:
        """Return what each LM call was asked: its messages, each a dict with `role` and `content`, or a text."""
        asked = [span.inputs or {} for span in self.lms(path=path)]
        return [each.get("messages", each.get("prompt")) for each in asked]

    def tokens(self) -> dict[str, int]:
        """Return the tokens that all LM calls billed, such as `{"input_tokens": 12, …, "total_tokens": 20}`."""
        total: Counter[str] = Counter()
        for span in self.lms():
            total.update(span.get_attribute("mlflow.chat.tokenUsage") or {})
        return dict(total)

    def cost_usd(self) -> float:
        """Return the US dollars that all LM calls cost, as far as their prices are known."""
        costs: list[dict[str, float]] = [span.get_attribute("mlflow.llm.cost") or {} for span in self.lms()]
        return sum(cost.get("total_cost", 0.0) for cost in costs)

    def retries(self) -> int:
        """Return how often DSPy asked an LM again after a failure."""
        return sum(span.get_attribute("dspy.lm.retries") or 0 for span in self.lms())

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


def _at(spans: list[Span], path: str | None) -> list[Span]:
    """Return the spans of the modules of that path, and those below them."""
    if path is None:
        return spans
    by_id = {span.span_id: span for span in spans}

    def is_within(span: Span | None) -> bool:
        return span is not None and (span.name == path or is_within(by_id.get(span.parent_id)))

    return [span for span in spans if is_within(span)]


def _started(span: Span) -> int:
    started: int = span.start_time_ns
    return started
