"""Optimizers."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import dspy

from dspy_mlflow_callbacks.describe.evaluations import metric_name
from dspy_mlflow_callbacks.describe.payloads import to_json
from dspy_mlflow_callbacks.describe.secrets import without_secrets
from dspy_mlflow_callbacks.describe.signatures import fingerprint_attributes, program_fingerprint
from dspy_mlflow_callbacks.events import CallEnd, CallStart, SpanEnd, SpanStart

_SCALARS = (bool, int, float, str, type(None))


def start(call: CallStart) -> SpanStart:
    """Describe the start of an optimizer's `compile`: student, dataset sizes, parameters."""
    inputs = dict(call.inputs)
    inputs.update(inputs.pop("kwargs", {}))
    return SpanStart(
        name=call.name or type(call.instance).__name__,
        span_type="WORKFLOW",
        inputs=to_json(without_secrets({name: _shown(name, value) for name, value in inputs.items()})),
        attributes={
            "dspy.class": to_json(type(call.instance)),
            "dspy.optimizer.params": to_json(_params(call.instance)),
            **fingerprint_attributes(inputs.get("student")),
        },
    )


def end(call: CallStart, end: CallEnd) -> SpanEnd:
    """Describe the program that came out: its class, its fingerprint, its score and the candidates' scores."""
    program = end.outputs
    if not isinstance(program, dspy.Module):
        return SpanEnd(outputs=to_json(program))
    candidates = getattr(program, "candidate_programs", None) or []
    scores = [candidate.get("score") for candidate in candidates if isinstance(candidate, dict)]
    outputs = {
        "program": type(program).__name__,
        "fingerprint": program_fingerprint(program),
        "score": getattr(program, "score", None),
        "candidate_scores": scores,
    }
    return SpanEnd(outputs=to_json(outputs), attributes={"dspy.compile.fingerprint": to_json(outputs["fingerprint"])})


def _shown(name: str, value: Any) -> Any:
    """Show a dataset (`trainset`, `valset`, …) by its size."""
    return {"size": len(value)} if name.endswith("set") and isinstance(value, Sized) else value


def _params(optimizer: Any) -> dict[str, Any]:
    """Return the optimizer's metric by name, and those of its own parameters that are plain values."""
    params = optimizer.get_params()
    shown = {name: value for name, value in params.items() if isinstance(value, _SCALARS)}
    metric = {"metric": metric_name(params["metric"])} if "metric" in params else {}
    return {**without_secrets(shown), **metric}
