"""The starts of calls, as they travel through the middleware: made of what DSPy says, and of what is known around."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dspy_mlflow_callbacks import dspy_internals
from dspy_mlflow_callbacks.attempts import Attempt, current_attempt
from dspy_mlflow_callbacks.describe import name_of
from dspy_mlflow_callbacks.describe.examples import inputs_of, tags_of
from dspy_mlflow_callbacks.events import EMPTY, CallKind, CallStart, EvaluatedExample, new_call_start
from dspy_mlflow_callbacks.lm_internals import LMWatch
from dspy_mlflow_callbacks.optimizing import CompileSummary, Trial
from dspy_mlflow_callbacks.spans.engine import Engine
from dspy_mlflow_callbacks.spans.open_spans import OpenCall


class Starts:
    """Makes the starts of calls.

    Args:
        owner: Who opens the calls.
        engine: Knows the scopes and the experiment where a call starts.
        summarizes: Whether compiles are recorded in summary.
    """

    def __init__(self, owner: object, engine: Engine, *, summarizes: bool) -> None:
        self._owner = owner
        self._engine = engine
        self._summarizes = summarizes

    def call(
        self,
        kind: CallKind,
        call_id: str,
        instance: Any,
        inputs: dict[str, Any],
        *,
        parent: OpenCall | None,
        above: Any,
        is_sampled: bool | None,
    ) -> CallStart:
        """Return the start of a call that DSPy announces.

        Args:
            kind: What is called; a trial is a call of an `Evaluate`.
            call_id: DSPy's id of the call.
            instance: The module, LM, … that is called.
            inputs: Its arguments by name.
            parent: The open call that it nests in.
            above: The engine's span above it; None leaves that to MLflow.
            is_sampled: What was decided for the trace before.
        """
        watch = self._watch(kind, call_id, instance, inputs, part=None if parent is None else parent.part)
        enclosing = parent.start if parent is not None else None
        is_entry = parent is None or parent.owner is not self._owner or _is_hidden_entry(enclosing)
        scope = self._engine.scope() if is_entry else None
        trace_scope = scope if above is None else None  # a trace that somebody else began has its own
        attempt = current_attempt()
        if attempt is not None and not attempt.takes(kind):
            attempt = None
        return new_call_start(
            kind=kind,
            call_id=call_id,
            parent=enclosing,
            parent_call_id=dspy_internals.active_call_id(),
            root_call_id=root_call_id(call_id, parent),
            instance=instance,
            inputs=inputs,
            name=watch.name if kind is CallKind.TRIAL else name_of(kind, instance, inputs, enclosing),
            is_entry=is_entry,
            is_sampled=is_sampled,
            settings=dspy_internals.settings,
            scope=scope,
            tags=_tags_around(None if above is not None else attempt, trace_scope),
            metadata=EMPTY if trace_scope is None else trace_scope.metadata,
            attributes=EMPTY if attempt is None else attempt.attributes,
            attempt=enclosing.attempt if attempt is None and enclosing is not None else attempt,
            watch=watch,
            locator=self._engine.experiment,
        )

    def _watch(self, kind: CallKind, call_id: str, instance: Any, inputs: dict[str, Any], *, part: Any) -> Any:
        """Return what learns of a call while it runs, where its kind has something of the sort."""
        if kind is CallKind.LM:
            return LMWatch(call_id)
        if kind is CallKind.COMPILE and self._summarizes:
            return CompileSummary(call_id, inputs, part)
        if kind is CallKind.TRIAL:
            devset = inputs.get("devset")
            devset = instance.devset if devset is None else devset
            return part.evaluates(inputs.get("program"), devset, inputs.get("callback_metadata"))
        return None

    def example(self, call_id: str, example: EvaluatedExample, evaluation: OpenCall, *, is_linked: bool) -> CallStart:
        """Return the start of an example of *evaluation*, of a trace of its own if it *is_linked*."""
        tags = {**tags_of(example), **_tags_of(evaluation.part)} if is_linked else EMPTY
        inputs = inputs_of(example.example)
        return self._below(CallKind.EXAMPLE, call_id, example, inputs, evaluation, tags=tags, begins_trace=is_linked)

    def candidate(
        self, call_id: str, instance: Any, inputs: dict[str, Any], around: OpenCall, trial: Trial
    ) -> CallStart:
        """Return the start of a candidate's call in a *trial* of the compile *around*, with a trace of its own."""
        return self._below(CallKind.MODULE, call_id, instance, inputs, around, tags=trial.tags(), begins_trace=True)

    def _below(
        self,
        kind: CallKind,
        call_id: str,
        instance: Any,
        inputs: dict[str, Any],
        around: OpenCall,
        *,
        tags: Mapping[str, str],
        begins_trace: bool,
    ) -> CallStart:
        """Return the start of an example's call, which is kept with the evaluation or compile *around*."""
        enclosing: Any = around.start
        scope = self._engine.scope() if begins_trace else None
        return new_call_start(
            kind=kind,
            call_id=call_id,
            parent=enclosing,
            parent_call_id=around.call_id,
            root_call_id=call_id if begins_trace else enclosing.root_call_id,
            instance=instance,
            inputs=inputs,
            name=name_of(kind, instance, inputs, None),
            is_entry=begins_trace,
            is_sampled=True,
            begins_trace=begins_trace,
            settings=dspy_internals.settings,
            scope=scope,
            tags=tags if scope is None else {**tags, **scope.tags},
            metadata=EMPTY if scope is None else scope.metadata,
            locator=self._engine.experiment,
        )


def root_call_id(call_id: str, parent: OpenCall | None) -> str:
    """Return the id of the outermost call around a call that nests in *parent*."""
    return call_id if parent is None or parent.start is None else parent.start.root_call_id


def _tags_around(attempt: Attempt | None, scope: Any) -> Mapping[str, str]:
    """Return the tags of a trace that begins inside a scope, with an executor's call."""
    tags: Mapping[str, str] = EMPTY if scope is None else scope.tags
    return tags if attempt is None or not attempt.tags else {**tags, **attempt.tags}


def _tags_of(part: Any) -> Mapping[str, str]:
    """Return the tags of an example's trace that say which trial it is part of, if it is part of one."""
    return EMPTY if part is None else part.tags()


def _is_hidden_entry(call: CallStart | None) -> bool:
    """Return whether recording was to begin with a call that has no span: then it begins below."""
    return call is not None and call.is_hidden and call.is_entry
