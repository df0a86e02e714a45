"""Optimizers."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import Any

import dspy

from dspy_mlflow_callbacks.describe.content import Closing, Opening
from dspy_mlflow_callbacks.describe.evaluations import metric_name
from dspy_mlflow_callbacks.describe.payloads import plain_without_secrets, to_json
from dspy_mlflow_callbacks.describe.signatures import fingerprint_attributes, program_fingerprint
from dspy_mlflow_callbacks.events import CallEnd, CallKind, CallStart

_SCALARS = (bool, int, float, str, type(None))


def name(kind: CallKind, instance: Any, inputs: Mapping[str, Any], parent: CallStart | None) -> str:
    """Return the optimizer's class."""
    return type(instance).__name__


def start(call: CallStart) -> Opening:
    """Describe the start of an optimizer's `compile`: student, dataset sizes, parameters."""
    inputs = dict(call.inputs)
    inputs.update(inputs.pop("kwargs", {}))
    return Opening(
        span_type="WORKFLOW",
        inputs=plain_without_secrets({name: _shown(name, value) for name, value in inputs.items()}),
        attributes={
            "dspy.class": to_json(type(call.instance)),
            "dspy.optimizer.params": to_json(_params(call.instance)),
            **fingerprint_attributes(inputs.get("student")),
        },
    )


def end(call: CallStart, end: CallEnd) -> Closing:
    """Describe the program that came out: its class, its fingerprint, its score and the candidates' scores.

    Where the compile is recorded in summary: how many trials there were, and what they and the rest cost.
    """
    program, summary = end.outputs, {} if call.watch is None else call.watch.closing()
    if not isinstance(program, dspy.Module):
        return Closing(outputs=program, attributes=summary)
    candidates = getattr(program, "candidate_programs", None) or []
    scores = [candidate.get("score") for candidate in candidates if isinstance(candidate, dict)]
    outputs = {
        "program": type(program).__name__,
        "fingerprint": program_fingerprint(program),
        "score": getattr(program, "score", None),
        "candidate_scores": scores,
    }
    fingerprint = to_json(outputs["fingerprint"])
    return Closing(outputs=outputs, attributes={"dspy.compile.fingerprint": fingerprint, **summary})


def _shown(name: str, value: Any) -> Any:
    """Show a dataset (`trainset`, `valset`, …) by its size."""
    return {"size": len(value)} if name.endswith("set") and isinstance(value, Sized) else value


def _params(optimizer: Any) -> dict[str, Any]:
    """Return the optimizer's metric by name, and those of its own parameters that are plain values."""
    params = optimizer.get_params()
    shown = {name: value for name, value in params.items() if isinstance(value, _SCALARS)}
    metric = {"metric": metric_name(params["metric"])} if "metric" in params else {}
    return {**plain_without_secrets(shown), **metric}
