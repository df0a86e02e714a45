"""Examples of an evaluation: what `dspy.Evaluate` does with one of them, and what the metric says of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dspy

from dspy_mlflow_callbacks.describe.content import LABELS, Closing, Opening
from dspy_mlflow_callbacks.describe.payloads import encodable, plain, plain_example, to_json, word_to_json
from dspy_mlflow_callbacks.describe.signatures import FINGERPRINT
from dspy_mlflow_callbacks.events import CallEnd, CallKind, CallStart, EvaluatedExample, Feedback, SpanEvent

EVALUATION = "dspy.evaluation.id"
EXAMPLE_INDEX = "dspy.evaluation.example_index"

# MLflow's limit: mlflow.store.tracking.dbmodels.models.SqlAssessments.name.
_MAX_NAME_CHARACTERS = 250

# What DSPy's `Evaluate` makes of an example: the prediction, and what the metric returned.
_RESULT_ITEMS = 2


def name(kind: CallKind, instance: Any, inputs: Mapping[str, Any], parent: CallStart | None) -> str:
    """Return `Example`."""
    return "Example"


def inputs_of(example: Any) -> dict[str, Any]:
    """Return what the program is given of an example; nothing of one that has no inputs: DSPy will say so."""
    try:
        return dict(example.inputs().items())
    except Exception:  # noqa: BLE001  (whatever stands in the devset)
        return {}


def tags_of(example: EvaluatedExample) -> dict[str, str]:
    """Return the tags by which the trace of an example is found."""
    tags = {EVALUATION: example.evaluation_id}
    if example.index is not None:
        tags[EXAMPLE_INDEX] = str(example.index)
    if example.fingerprint is not None:
        tags[FINGERPRINT] = example.fingerprint
    return tags


def start(call: CallStart) -> Opening:
    """Describe an example: its inputs, its labels, its place in the evaluation."""
    evaluated: EvaluatedExample = call.instance
    attributes = {key: word_to_json(text) for key, text in tags_of(evaluated).items() if key != EXAMPLE_INDEX}
    if evaluated.index is not None:
        attributes[EXAMPLE_INDEX] = str(evaluated.index)
    attributes[LABELS] = to_json(_labels(evaluated.example))
    return Opening(span_type="CHAIN", inputs=call.inputs, attributes=attributes)


def _labels(example: Any) -> Any:
    try:
        return dict(example.labels().items())
    except Exception:  # noqa: BLE001  (whatever stands in the devset)
        return example


def end(call: CallStart, end: CallEnd) -> Closing:
    """Describe what became of an example: the program's prediction, and what the metric says of it."""
    outputs = end.outputs
    if type(outputs) is not tuple or len(outputs) != _RESULT_ITEMS:  # an `Evaluate` of the user's own
        return Closing(outputs=outputs)
    prediction, score = outputs
    return Closing(outputs=plain_example(prediction), feedback=_feedback(call.instance.metric, score))


def _feedback(metric: str, score: Any) -> Feedback:
    rationale = None
    if isinstance(score, dspy.Prediction) and "score" in score:
        said = score.get("feedback")
        score, rationale = score["score"], None if said is None else _text(said)
    return Feedback(name=_name(metric), value=plain(score), rationale=rationale)


def failure(call: CallStart, event: SpanEvent) -> Feedback:
    """Return the feedback on an example for which the program, or the metric, raised.

    Args:
        call: The example.
        event: OpenTelemetry's event of the exception.
    """
    said = event.attributes
    return Feedback(
        name=_name(call.instance.metric),
        error=said["exception.type"],
        message=said["exception.message"],
        stacktrace=said["exception.stacktrace"],
    )


def _name(metric: str) -> str:
    return encodable(metric)[:_MAX_NAME_CHARACTERS]


def _text(value: Any) -> str:
    return encodable(value) if isinstance(value, str) else to_json(value)
