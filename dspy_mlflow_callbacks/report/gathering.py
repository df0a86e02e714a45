"""Adding up traces one by one, in memory that does not grow with them."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any

import attrs
from mlflow.entities import TraceInfo

from dspy_mlflow_callbacks.report.compiles import OptimizerRun
from dspy_mlflow_callbacks.report.plain_spans import PlainSpan
from dspy_mlflow_callbacks.report.sums import Frame, Spent, Sum, Sums

WAYS = ("fingerprint", "tag:KEY", "model", "day")
"""What traces may be grouped by."""

HOUR_MS = 3_600_000
_MOST_NAMES, _MOST_FRAMES, _MOST_DEPTH, _MOST_LISTED = 500, 40, 24, 10
_LMS = frozenset({"CHAT_MODEL", "LLM"})
_NO_PLACES = _LMS | {"PARSER"}


@attrs.frozen(order=True)
class Listed:
    """A trace that is worth a look.

    Attributes:
        weight: What the list is sorted by.
        trace_id: Its id.
        experiment_id: Where it is.
        name: What it is called.
        time_ms: When it began.
        milliseconds: How long it took.
        cost: US dollars.
        has_failed: Whether it failed.
    """

    weight: float
    trace_id: str
    experiment_id: str = attrs.field(order=False)
    name: str = attrs.field(order=False)
    time_ms: int = attrs.field(order=False)
    milliseconds: float = attrs.field(order=False)
    cost: float = attrs.field(order=False)
    has_failed: bool = attrs.field(order=False)


@attrs.define
class Gathered:
    """All that a report says of traces.

    Attributes:
        by: What they are grouped by; None for nothing.
        all: All of them.
        hours: By the hour in which they began, counted from 1970.
        groups: By what *by* says.
        names: By what they are called.
        places: Calls of modules, tools and so on by their path; tokens and dollars are those of all below them.
        models: LM calls by model.
        frames: The tree of all calls.
        fallbacks: How often an adapter took over from another.
        runs: Optimizer runs, newest first.
        slowest: The slowest traces.
        dearest: The dearest ones.
        failed: The newest ones that failed.
    """

    by: str | None = None
    all: Sum = attrs.field(factory=Sum)
    hours: dict[int, Sum] = attrs.field(factory=dict)
    groups: Sums = attrs.field(factory=lambda: Sums(_MOST_NAMES))
    names: Sums = attrs.field(factory=lambda: Sums(_MOST_NAMES))
    places: Sums = attrs.field(factory=lambda: Sums(_MOST_NAMES))
    models: Sums = attrs.field(factory=lambda: Sums(_MOST_NAMES))
    frames: Frame = attrs.field(factory=lambda: Frame("all"))
    fallbacks: int = 0
    runs: list[OptimizerRun] = attrs.field(factory=list)
    slowest: list[Listed] = attrs.field(factory=list)
    dearest: list[Listed] = attrs.field(factory=list)
    failed: list[Listed] = attrs.field(factory=list)

    def add(self, info: TraceInfo, spans: Iterable[PlainSpan]) -> None:
        """Add a trace with its spans."""
        spans = sorted(spans, key=lambda span: span.start_time_ns)
        spent = _spent_by(spans)
        whole = Spent()
        for span in spans:
            if span.parent_id not in spent:
                whole.add(spent[span.span_id])
        models = self._add_spans(spans, spent)
        self._add_whole(info, whole, self._groups_of(info, spans, models))

    def _add_whole(self, info: TraceInfo, spent: Spent, groups: Iterable[str]) -> None:
        has_failed = info.state.value == "ERROR"
        name = info.tags.get("mlflow.traceName", "")
        sums = [self.all, self.hours.setdefault(info.request_time // HOUR_MS, Sum()), self.names.of(name)]
        for each in (*sums, *map(self.groups.of, groups)):
            each.add_call(info.execution_duration, has_failed=has_failed)
            each.add_spent(spent)
        took = info.execution_duration or 0
        said = (info.trace_id, str(info.experiment_id), name, info.request_time, took, spent.cost, has_failed)
        _keep(self.slowest, Listed(took, *said))
        if spent.cost:
            _keep(self.dearest, Listed(spent.cost, *said))
        if has_failed:
            _keep(self.failed, Listed(info.request_time, *said))

    def _groups_of(self, info: TraceInfo, spans: list[PlainSpan], models: set[str]) -> Iterable[str]:
        if self.by is None:
            return ()
        if self.by == "model":
            return sorted(models) or ("(none)",)
        if self.by == "day":
            return (datetime.fromtimestamp(info.request_time / 1000, timezone.utc).strftime("%Y-%m-%d"),)
        if self.by == "fingerprint":
            return (str((spans and spans[0].get_attribute("dspy.program.fingerprint")) or "(none)"),)
        return (info.tags.get(self.by.removeprefix("tag:"), "(none)"),)

    def _add_spans(self, spans: list[PlainSpan], spent: Mapping[str, Spent]) -> set[str]:
        """Add each span to its place, its model and the tree; return the models."""
        frames: dict[str | None, tuple[Frame, int]] = {}
        models = set()
        for span in spans:
            kind, milliseconds = span.span_type, _milliseconds(span)
            has_failed = span.has_failed
            if kind in _LMS:
                model = str(span.get_attribute("mlflow.llm.model") or span.name)
                models.add(model)
                self._add_lm(span, self.models.of(model), spent[span.span_id], milliseconds, has_failed=has_failed)
            elif kind not in _NO_PLACES:
                place = self.places.of(span.name)
                place.add_call(milliseconds, has_failed=has_failed)
                place.add_spent(spent[span.span_id])
            self.fallbacks += span.fallbacks
            above, depth = frames.get(span.parent_id, (self.frames, 0))
            frame = above if depth >= _MOST_DEPTH else above.child(span.name, _MOST_FRAMES)
            frames[span.span_id] = frame, depth + 1
            if frame is not above:
                frame.calls += 1
                frame.milliseconds += milliseconds or 0.0
                frame.cost += spent[span.span_id].cost
        return models

    def _add_lm(
        self, span: PlainSpan, model: Sum, spent: Spent, milliseconds: float | None, *, has_failed: bool
    ) -> None:
        model.add_call(milliseconds, has_failed=has_failed)
        model.add_spent(spent)
        hit, retries = bool(span.get_attribute("dspy.lm.cache_hit")), span.get_attribute("dspy.lm.retries") or 0
        for each in (model, self.all):
            each.cache_hits += hit
            each.retries += retries


def _keep(listed: list[Listed], one: Listed) -> None:
    """Keep the heaviest."""
    if len(listed) < _MOST_LISTED:
        heapq.heappush(listed, one)
    else:
        heapq.heappushpop(listed, one)


def _milliseconds(span: PlainSpan) -> float | None:
    return None if span.end_time_ns is None else (span.end_time_ns - span.start_time_ns) / 1e6


def _spent_by(spans: list[PlainSpan]) -> dict[str, Spent]:
    """Return what each span and those below it were billed, by its id."""
    spent = {span.span_id: _own(span) for span in spans}
    for span in reversed(spans):  # children begin after what is above them
        above = spent.get(span.parent_id or "")
        if above is not None:
            above.add(spent[span.span_id])
    return spent


def _own(span: PlainSpan) -> Spent:
    if span.span_type not in _LMS:
        return Spent()
    tokens: Mapping[str, Any] = span.get_attribute("mlflow.chat.tokenUsage") or {}
    cost: Mapping[str, Any] = span.get_attribute("mlflow.llm.cost") or {}
    return Spent(
        tokens.get("input_tokens", 0),
        tokens.get("output_tokens", 0),
        tokens.get("total_tokens", 0),
        cost.get("total_cost", 0.0),
    )
