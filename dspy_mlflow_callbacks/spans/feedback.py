"""What a metric says of an example, on its way to the store: MLflow's feedback on a trace, or on a span of one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import orjson

from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.events import Feedback
from dspy_mlflow_callbacks.payload import PayloadSteps
from dspy_mlflow_callbacks.spans.attributes import CALL_ID
from dspy_mlflow_callbacks.spans.leaving import Content, run_steps

# MLflow begins its own ids of assessments so.
_ID_PREFIX = "a-"


def leaving_feedback(
    span: Any, feedback: Feedback, steps: PayloadSteps, failed: Callable[[Exception], object]
) -> internals.Feedback:
    """Return *feedback* as it leaves the process.

    Its id is made of the call's, so that a batch which is sent again is not stored twice.

    Args:
        span: OpenTelemetry's span that it is about, or a light one.
        feedback: What the metric says.
        steps: The payload steps, which run on all that is no number.
        failed: Told of each step that failed.
    """
    said: dict[str, Any] = {name: getattr(feedback, name) for name in ("rationale", "message", "stacktrace")}
    if isinstance(feedback.value, (str, list, dict)):
        said["value"] = orjson.dumps(feedback.value).decode()
    if steps:
        run_steps(steps, _content(said), failed)
    value = said.pop("value", None)
    context = span.context
    return internals.Feedback(
        feedback_id=_ID_PREFIX + orjson.loads(span.attributes[CALL_ID]),
        trace_id=internals.trace_id_of(span),
        span_id=None if span.parent is None else f"{context.span_id:016x}",
        name=feedback.name,
        value=feedback.value if value is None else orjson.loads(value),
        error=feedback.error,
        created_ms=(span.end_time or time.time_ns()) // 1_000_000,
        **said,
    )


_PLACES: dict[str, tuple[Any, str, bool]] = {
    "value": ("attribute", "feedback", True),
    "rationale": ("attribute", "rationale", False),
    "message": ("error", "error", False),
    "stacktrace": ("event", "exception.stacktrace", False),
}


def _content(said: dict[str, Any]) -> Iterator[Content]:
    for key, text in list(said.items()):
        if text:
            place, name, is_json = _PLACES[key]
            yield place, name, text, is_json, partial(said.__setitem__, key)
