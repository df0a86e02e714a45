"""Trials of an optimizer: one candidate, evaluated or run on examples. A trial knows its name itself."""

from __future__ import annotations

import dspy

from dspy_mlflow_callbacks.describe import evaluations
from dspy_mlflow_callbacks.describe.content import Closing, Opening
from dspy_mlflow_callbacks.events import CallEnd, CallStart


def start(call: CallStart) -> Opening:
    """Describe the start of a trial: the candidate, as a change to that of the trial before."""
    if isinstance(call.instance, dspy.Evaluate):
        said = evaluations.start(call)
        return Opening(span_type=said.span_type, inputs=said.inputs, attributes=call.watch.opening())
    inputs = {"program": type(call.instance).__name__}
    return Opening(span_type="EVALUATOR", inputs=inputs, attributes=call.watch.opening())


def end(call: CallStart, end: CallEnd) -> Closing:
    """Describe what came of a trial: its score in per cent, its examples' scores, and what it cost."""
    if isinstance(call.instance, dspy.Evaluate):
        score = getattr(end.outputs, "score", None)
        return Closing(outputs=evaluations.end(call, end).outputs, attributes=call.watch.closing(score))
    trial = call.watch
    return Closing(outputs={"score": trial.score, "scores": trial.scores}, attributes=trial.closing(trial.score))
