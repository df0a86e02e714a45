"""The examples of an evaluation: each is a trace of its own, or a part of the evaluation's."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence, Sized
from typing import Any

from dspy_mlflow_callbacks import dspy_internals
from dspy_mlflow_callbacks.describe.evaluations import metric_of
from dspy_mlflow_callbacks.describe.examples import EVALUATION
from dspy_mlflow_callbacks.describe.signatures import fingerprint_or_none
from dspy_mlflow_callbacks.events import CallKind, CallStart, EvaluatedExample
from dspy_mlflow_callbacks.spans.open_spans import OPEN_SPANS, OpenCall
from dspy_mlflow_callbacks.tracing import Tracing

EXAMPLE_TRACES = "dspy.evaluation.traces"
EXAMPLE_COUNT = "dspy.evaluation.example_count"

_EVALUATIONS = frozenset({CallKind.EVALUATE, CallKind.TRIAL})

MAX_TRACES = 1000
"""Traces that an evaluation's span names; all of them have its id in a tag."""


def examples_of(data: Sequence[Any]) -> Examples | None:
    """Return who hears of the examples that are worked on from here; None if that is no evaluation that is recorded.

    Args:
        data: What DSPy's executor is given to work on.
    """
    call_id = dspy_internals.active_call_id()
    evaluation = OPEN_SPANS.get(call_id)
    # Another call that stands for this one has its own id: what runs here is then no evaluation's own work.
    if evaluation is None or evaluation.call_id != call_id or evaluation.start is None or not isinstance(data, Sized):
        return None
    start = evaluation.start
    if start.kind not in _EVALUATIONS or start.is_hidden or not isinstance(evaluation.owner, Tracing):
        return None
    if start.kind is CallKind.TRIAL and not are_linked(start, evaluation.owner.evaluate):
        return None  # a compile's summary has no examples in it
    return Examples(evaluation, start, evaluation.owner, data)


def are_linked(evaluation: CallStart, option: str) -> bool:
    """Return whether the examples of an evaluation are traces of their own.

    Inside a compile whose calls are recorded they are a part of the compile's trace; of a compile in summary it has the
    trials alone.
    """
    if evaluation.kind is CallKind.TRIAL:
        return option == "linked"
    above = evaluation.parent
    while above is not None and (above.kind is not CallKind.COMPILE or above.is_hidden):
        above = above.parent
    return option == "linked" and above is None


class Examples:
    """The examples of one evaluation that is open.

    Args:
        evaluation: The evaluation.
        start: How it started.
        tracing: The way of its calls.
        data: The devset.
    """

    def __init__(self, evaluation: OpenCall, start: CallStart, tracing: Tracing, data: Sequence[Any]) -> None:
        self._evaluation = evaluation
        self._start = start
        self._tracing = tracing
        self._is_linked = are_linked(start, tracing.evaluate)
        self._fingerprint = fingerprint_or_none(start.inputs.get("program"))
        self._metric = metric_of(start) or "metric"
        self._id = _evaluation_id(evaluation)
        self._indices = _Indices(data)
        self._trace_ids: list[str | None] = [None] * min(len(data), MAX_TRACES)
        self._count = len(data)
        if self._is_linked:
            evaluation.at_end = self._links

    def start(self, call_id: str, example: Any) -> None:
        """Open the span of an example."""
        try:
            self._open(call_id, example)
        except Exception as error:  # noqa: BLE001  (the boundary: the evaluation must not notice)
            self._tracing.lost(error)

    def end(self, call_id: str, outputs: Any, exception: BaseException | None) -> None:
        """Close the span of an example."""
        try:
            self._tracing.end(call_id, outputs, exception)
        except Exception as error:  # noqa: BLE001  (the boundary: the evaluation must not notice)
            self._tracing.lost(error)

    def _open(self, call_id: str, example: Any) -> None:
        evaluated = EvaluatedExample(
            example=example,
            index=self._indices.next(example),
            evaluation_id=self._id,
            fingerprint=self._fingerprint,
            metric=self._metric,
        )
        trace_id = self._tracing.start_example(call_id, evaluated, self._evaluation, is_linked=self._is_linked)
        index = evaluated.index
        if index is not None and index < len(self._trace_ids) and self._trace_ids[index] is None:
            self._trace_ids[index] = trace_id

    def _links(self) -> Mapping[str, Any]:
        return {EVALUATION: self._id, EXAMPLE_TRACES: self._trace_ids, EXAMPLE_COUNT: self._count}


def _evaluation_id(evaluation: OpenCall) -> str:
    """Return what the traces of an evaluation's examples have in common: its trace's id.

    A trace may have several evaluations in it; then the id of the evaluation's call follows.
    """
    trace_id: str = evaluation.span.trace_id
    return trace_id if evaluation.span.parent is None else f"{trace_id}/{evaluation.call_id}"


class _Indices:
    """Where examples stand in a devset; one object that stands there several times takes one place after the other.

    DSPy hands on the example alone. One that it works on again, since it took too long, keeps its place.
    """

    def __init__(self, data: Sequence[Any]) -> None:
        self._lock = threading.Lock()
        self._places: dict[int, deque[int]] = {}
        # Others may make their examples anew each time that they are asked.
        for index, example in enumerate(data if isinstance(data, (list, tuple)) else ()):
            self._places.setdefault(id(example), deque()).append(index)

    def next(self, example: Any) -> int | None:
        places = self._places.get(id(example))
        if places is None:
            return None
        with self._lock:
            return places.popleft() if len(places) > 1 else places[0]
