"""What an optimizer tried, by the trace that `compile="summary"` leaves of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
from mlflow.entities import Span, Trace

from dspy_mlflow_callbacks.compare.pages import stored_trace

_FINGERPRINT = "dspy.program.fingerprint"


@attrs.frozen(kw_only=True)
class TrialResult:
    """A trial: a candidate program, what it scored, and what that cost.

    Attributes:
        index: Its number in its compile, from 1 on.
        batch: `full` if it ran on all examples, else `minibatch`.
        score: In per cent; None where none is known.
        examples: On how many examples it ran.
        lm_calls: How many calls of LMs it made.
        tokens: Tokens that were billed, by MLflow's names, such as `input_tokens`.
        cost_usd: US dollars; None where no price is known.
        duration_s: Seconds from its first call to its last.
        status: `OK`, or `ERROR` where it was interrupted.
        fingerprint: The candidate's fingerprint; None where it has none.
        instructions: The candidate's instructions as a unified diff against those of the trial before.
        demos: How many demos each predictor has, and which were added and removed since the trial before.
        example_traces: Ids of traces of its examples.
    """

    index: int
    batch: str | None
    score: float | None
    examples: int
    lm_calls: int
    tokens: Mapping[str, int]
    cost_usd: float | None
    duration_s: float
    status: str
    fingerprint: str | None
    instructions: str
    demos: Mapping[str, Any]
    example_traces: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name as JSON values."""
        return attrs.asdict(self, value_serializer=_plain)


@attrs.frozen(kw_only=True)
class OptimizerRun:
    """One compile.

    Attributes:
        optimizer: The optimizer's class.
        trace_id: The trace in which it is.
        status: `OK`, or `ERROR` where it failed or was interrupted.
        duration_s: Seconds that it took.
        trials: Its trials, as they began.
        spent: LM calls, tokens and US dollars (`lm_calls`, `tokens`, `cost`) of its `trials`, and of the rest,
            `proposing`; of compiles inside it, too.
        inner: The compiles inside it, as they began.
    """

    optimizer: str
    trace_id: str
    status: str
    duration_s: float
    trials: tuple[TrialResult, ...]
    spent: Mapping[str, Any]
    inner: tuple[OptimizerRun, ...]

    @property
    def best(self) -> TrialResult | None:
        """The first of the trials with the highest score, of those on all examples where there are any."""
        scored = [(trial.score, trial) for trial in self.trials if trial.score is not None]
        on_all = [(score, trial) for score, trial in scored if trial.batch == "full"]
        return max(on_all or scored, key=lambda each: each[0], default=(None, None))[1]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name as JSON values, and the number of the best trial."""
        best = None if self.best is None else self.best.index
        return {**attrs.asdict(self, value_serializer=_plain), "best": best}


def _plain(_: object, __: object, value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def optimizer_runs(traces: Trace | str | Iterable[Trace | str]) -> list[OptimizerRun]:
    """Return the compiles that are recorded in *traces*, each with score and cost by trial.

    Args:
        traces: Stored traces, or their ids in the store that `mlflow.set_tracking_uri` names; one or many.

    Raises:
        TypeError: if one of them is neither.
        ValueError: if there is no such trace, or if it is not whole.

    Example:
        ```python
        for run in optimizer_runs(mlflow.search_traces(return_type="list")):
            print(run.optimizer, [(trial.index, trial.score, trial.cost_usd) for trial in run.trials])
        ```
    """
    if isinstance(traces, (Trace, str)):
        traces = [traces]
    if not isinstance(traces, Iterable):
        message = f"traces must be an mlflow.entities.Trace, its id, or an iterable of these, got {traces!r}"
        raise TypeError(message)
    return [run for trace in traces for run in _runs_of(stored_trace(trace))]


def _runs_of(trace: Trace) -> list[OptimizerRun]:
    spans = sorted(trace.data.spans, key=lambda span: span.start_time_ns)
    above = {span.span_id: span for span in spans}
    inside: dict[str | None, list[Span]] = {}
    for span in spans:
        inside.setdefault(_compile_around(span, above), []).append(span)
    return [_run(span, inside) for span in inside.get(None, []) if _kind(span) == "compile"]


def _compile_around(span: Span, above: Mapping[str, Span]) -> str | None:
    """Return the id of the innermost compile that a span is in."""
    around = above.get(span.parent_id)
    while around is not None and _kind(around) != "compile":
        around = above.get(around.parent_id)
    return None if around is None else str(around.span_id)


def _run(span: Span, inside: Mapping[str | None, Sequence[Span]]) -> OptimizerRun:
    below = inside.get(span.span_id, ())
    return OptimizerRun(
        optimizer=span.name,
        trace_id=span.trace_id,
        status=span.status.status_code.value,
        duration_s=(span.end_time_ns - span.start_time_ns) / 1e9,
        trials=tuple(_trial(each) for each in below if _kind(each) == "trial"),
        spent=span.get_attribute("dspy.compile.spent") or {},
        inner=tuple(_run(each, inside) for each in below if _kind(each) == "compile"),
    )


def _trial(span: Span) -> TrialResult:
    said = {name: span.get_attribute(f"dspy.trial.{name}") for name in _SAID}
    return TrialResult(
        index=said["index"],
        batch=said["batch"],
        score=said["score"],
        examples=said["examples"] or 0,
        lm_calls=said["lm_calls"] or 0,
        tokens=said["tokens"] or {},
        cost_usd=said["cost"],
        duration_s=said["duration_s"] or 0.0,
        status=span.status.status_code.value,
        fingerprint=span.get_attribute(_FINGERPRINT),
        instructions=said["instructions"] or "",
        demos=said["demos"] or {},
        example_traces=tuple(each for each in span.get_attribute("dspy.evaluation.traces") or () if each is not None),
    )


_SAID = (
    "index",
    "batch",
    "score",
    "examples",
    "lm_calls",
    "tokens",
    "cost",
    "duration_s",
    "instructions",
    "demos",
)


def _kind(span: Span) -> Any:
    return span.get_attribute("dspy.kind")
