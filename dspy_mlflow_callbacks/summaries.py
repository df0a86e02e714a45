"""What is kept of a compile that is recorded in summary: calls that are watched, and trials that no event announces."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from dspy_mlflow_callbacks import dspy_internals
from dspy_mlflow_callbacks.describe.signatures import program_fingerprint
from dspy_mlflow_callbacks.events import CallKind, CallStart, new_call_start
from dspy_mlflow_callbacks.lm_internals import LMWatch
from dspy_mlflow_callbacks.optimizing import CompileSummary, Group, Place, Trial, amount_of, place_of
from dspy_mlflow_callbacks.spans.open_spans import OpenCall, OpenSpans

OpenTrial = Callable[[CallStart, OpenCall], None]
End = Callable[[str, Any, BaseException | None], None]


class Summaries:
    """Watches what gets no span inside compiles.

    Args:
        owner: Who holds the open calls.
        open_spans: The calls of the process that are open.
        open_trial: Opens the span of a trial inside an open compile, and holds it, unless it is left out.
        end: Ends a call by its id, with what it returned and raised; one that is not open is left alone.
    """

    def __init__(self, owner: object, open_spans: OpenSpans, open_trial: OpenTrial, end: End) -> None:
        self._owner = owner
        self._open_spans = open_spans
        self._open_trial = open_trial
        self._end = end

    def place_of(self, kind: CallKind, instance: Any, around: OpenCall) -> Place:
        """Return what becomes of a call right below *around*, which is summed up."""
        parent_call_id = dspy_internals.active_call_id()
        place = place_of(kind, parent_call_id, instance, around.part)
        if around.call_id == parent_call_id and isinstance(around.part, CompileSummary) and around.part.groups:
            self._leave_groups(around.part, dspy_internals.current_item(), is_tried=place is Place.CANDIDATE)
        return place

    def watch(self, kind: CallKind, call_id: str, instance: Any, inputs: Mapping[str, Any], around: OpenCall) -> None:
        """Hold a call without a span; an LM's cost counts."""
        if kind is CallKind.LM:
            start = _hidden(kind, call_id, instance, inputs, around, watch=LMWatch(call_id))
            part = _part(around)
            self._open_spans.add(
                call_id, OpenCall(call_id, start, around.span, self._owner, around.trace, part=part, is_summarized=True)
            )
        else:
            self._open_spans.stand_for(call_id, around)

    def watch_candidate(
        self, call_id: str, instance: Any, inputs: Mapping[str, Any], around: OpenCall, trial: Trial
    ) -> None:
        """Hold a candidate's call without a span."""
        start = _hidden(CallKind.MODULE, call_id, instance, inputs, around)
        self._open_spans.add(
            call_id,
            OpenCall(
                call_id,
                start,
                around.span,
                self._owner,
                around.trace,
                part=trial,
                is_summarized=True,
                on_end=lambda _: trial.ran_example(inputs),
            ),
        )

    def trial_of(self, program: Any, around: OpenCall) -> Trial:
        """Return the trial that a call of *program* by the compile *around* is part of; it may begin here."""
        summary, item = around.part, dspy_internals.current_item() or dspy_internals.Item(None)
        with summary.lock:
            group = self._group_of(program, item.batch, summary, around)
        item.part = group.trial
        return group.trial

    def _group_of(self, program: Any, batch: object | None, summary: CompileSummary, around: OpenCall) -> Group:
        together = [group for group in summary.groups if group.batch is batch]
        fingerprint: str | None = None
        for group in together:
            if not group.is_of(program):
                fingerprint = fingerprint or program_fingerprint(program)
                if group.trial.candidate.fingerprint != fingerprint:
                    continue
                group.programs.append(program)
            return group
        trial = summary.new_trial(program)
        start = _trial_start(trial, program, around)
        self._open_trial(start, around)
        group = Group(trial, batch, [program], functools.partial(self._end, start.call_id, None))
        summary.groups.append(group)
        return group

    def _leave_groups(self, summary: CompileSummary, item: dspy_internals.Item | None, *, is_tried: bool) -> None:
        """End the trials that are over: an optimizer does something else, or goes on to other examples."""
        batch = None if item is None else item.batch
        with summary.lock:
            over = [group for group in summary.groups if group.batch is not batch or (batch is None and not is_tried)]
            summary.groups = [group for group in summary.groups if group not in over]
            for group in over:
                summary.end_group(group, None)

    def end_groups(self, summary: CompileSummary, exception: BaseException | None) -> None:
        """End all trials of a compile that ends, with what it raised."""
        with summary.lock:
            groups, summary.groups = summary.groups, []
            for group in groups:
                summary.end_group(group, exception)


def count(call: OpenCall, outputs: Any, exception: BaseException | None) -> None:
    """Count what an LM call that has ended was billed, to the compile or trial that it is a part of."""
    start = call.start
    if start is not None and _is_billed(start, exception):
        call.part.spent(amount_of(start.watch, outputs, is_recorded=not call.is_hidden))


def count_attempt(start: CallStart, outputs: Any, exception: BaseException | None) -> None:
    """Count what an LM call that has ended was billed, to the executor's call that it is a part of."""
    if _is_billed(start, exception):
        start.attempt.spending.add(amount_of(start.watch, outputs, is_recorded=not start.is_hidden))


def _is_billed(start: CallStart, exception: BaseException | None) -> bool:
    return start.kind is CallKind.LM and (exception is None or bool(start.watch.answers))


def _part(around: OpenCall) -> Any:
    """Return what a call counts to: a metric that asks an LM is part of its example's trial."""
    item = dspy_internals.current_item()
    if item is not None and isinstance(item.part, Trial) and item.part.is_of(around.part):
        return item.part
    return around.part


def _hidden(
    kind: CallKind, call_id: str, instance: Any, inputs: Mapping[str, Any], around: OpenCall, *, watch: Any = None
) -> CallStart:
    enclosing = around.start
    return new_call_start(
        kind=kind,
        call_id=call_id,
        parent=enclosing,
        root_call_id=call_id if enclosing is None else enclosing.root_call_id,
        instance=instance,
        inputs=inputs,
        is_entry=False,
        is_hidden=True,
        watch=watch,
    )


def _trial_start(trial: Trial, program: Any, around: OpenCall) -> CallStart:
    enclosing: Any = around.start  # a compile that is dropped has no trials
    return new_call_start(
        kind=CallKind.TRIAL,
        call_id=uuid.uuid4().hex,
        parent=enclosing,
        parent_call_id=enclosing.call_id,
        root_call_id=enclosing.root_call_id,
        instance=program,
        inputs={"program": program},
        name=trial.name,
        is_entry=False,
        is_sampled=True,
        settings=dspy_internals.settings,
        watch=trial,
    )
