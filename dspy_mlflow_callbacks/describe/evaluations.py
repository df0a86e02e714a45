"""`dspy.Evaluate`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from dspy_mlflow_callbacks.describe.content import Closing, Opening
from dspy_mlflow_callbacks.describe.payloads import to_json
from dspy_mlflow_callbacks.describe.signatures import fingerprint_attributes
from dspy_mlflow_callbacks.events import CallEnd, CallKind, CallStart


def name(kind: CallKind, instance: Any, inputs: Mapping[str, Any], parent: CallStart | None) -> str:
    """Return `Evaluate`."""
    return "Evaluate"


def start(call: CallStart) -> Opening:
    """Describe the start of an evaluation: program, metric and size of the devset; examples have their own spans."""
    evaluate, inputs = call.instance, call.inputs
    program = inputs.get("program")
    devset = _given(inputs.get("devset"), evaluate.devset)
    return Opening(
        span_type="EVALUATOR",
        inputs={
            "program": type(program).__name__,
            "metric": metric_of(call),
            "devset_size": len(devset) if devset is not None else 0,
            "num_threads": _given(inputs.get("num_threads"), evaluate.num_threads),
            "callback_metadata": inputs.get("callback_metadata"),
        },
        attributes=fingerprint_attributes(program),
    )


def end(call: CallStart, end: CallEnd) -> Closing:
    """Describe the evaluation's score, in per cent, and the metric's value for each example in the devset's order."""
    score = getattr(end.outputs, "score", None)
    if score is None:
        return Closing(outputs=end.outputs)
    outputs = {"score": score, "scores": [value for *_, value in end.outputs.results]}
    return Closing(outputs=outputs, attributes={"dspy.evaluate.score": to_json(score)})


def metric_of(call: CallStart) -> str | None:
    """Return the name of the metric of an evaluation."""
    return metric_name(_given(call.inputs.get("metric"), getattr(call.instance, "metric", None)))


def _given(argument: Any, default: Any) -> Any:
    return default if argument is None else argument


def _without_autolog(metric: Any) -> Any:
    """Return the metric that `mlflow.dspy.autolog` has wrapped to log its values; another one is itself."""
    if getattr(metric, "__module__", None) != "mlflow.dspy.autolog":
        return metric
    return inspect.getclosurevars(inspect.unwrap(metric)).nonlocals.get("metric", metric)


def metric_name(metric: Any) -> str | None:
    """Return a metric's name: its function's, or its class's for an object."""
    metric = _without_autolog(metric)
    metric = getattr(metric, "func", metric)  # a functools.partial is known by its function
    return None if metric is None else getattr(metric, "__name__", type(metric).__name__)
