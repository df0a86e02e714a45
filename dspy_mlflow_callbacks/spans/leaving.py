"""What leaves the process with a span: its content goes through the payload steps when the span closes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import orjson

from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.payload import Payload, PayloadSteps
from dspy_mlflow_callbacks.payload.step import Place

# What MLflow and this package say of the span itself, and what is only numbers: no step is asked for it.
_OWN = frozenset(
    {
        internals.REQUEST_ID,
        internals.SPAN_TYPE,
        internals.LOG_LEVEL,
        internals.EXPERIMENT_ID,
        "dspy.kind",
        "dspy.call_id",
        "dspy.cpu_time_s",
        "mlflow.chat.tokenUsage",
        "mlflow.llm.cost",
    }
)
_PLACES: dict[str, Place] = {internals.INPUTS: "inputs", internals.OUTPUTS: "outputs"}

# What leaves: place, name, text, whether it is JSON, and what puts another text there.
Content = tuple[Place, str, str, bool, Callable[[str], object]]


def run_steps(steps: PayloadSteps, span: Any, failed: Callable[[Exception], object], *, with_trace: bool) -> None:
    """Run *steps* on all content of a span that is about to end, whoever put it there.

    Args:
        steps: The payload steps.
        span: OpenTelemetry's span.
        failed: Told of each step that failed.
        with_trace: Whether the tags, metadata and previews of its trace are looked at too.
    """
    content = [*_attributes(span), *_events(span), *_error(span)]
    if with_trace:
        content += _trace(span)
    if steps.clears("\n".join([f'"{name}":{text}' for _, name, text, _, _ in content])):
        return
    payloads = [
        Payload(place=place, name=name, text=text, is_json=is_json) for place, name, text, is_json, _ in content
    ]
    for (*_, replace), before, after in zip(content, payloads, steps.run(payloads, failed), strict=True):
        if after.text != before.text:
            replace(after.text)


def _attributes(span: Any) -> Iterator[Content]:
    for key, value in span.attributes.copy().items():
        if key not in _OWN:
            place: Place = _PLACES.get(key, "attribute")
            name = key if place == "attribute" else place
            yield from _content(place, name, value, functools.partial(span.set_attribute, key), is_json=True)


def _content(
    place: Place, name: str, value: Any, replace: Callable[[Any], object], *, is_json: bool
) -> Iterator[Content]:
    """Yield a text, or the texts that OpenTelemetry keeps in a tuple; numbers say nothing."""
    if isinstance(value, str):
        yield place, name, value, is_json, replace
    elif isinstance(value, tuple):
        yield place, name, orjson.dumps(value).decode(), True, lambda text: replace(_tuple(text))


def _tuple(text: str) -> Any:
    value = orjson.loads(text)
    return tuple(map(str, value)) if isinstance(value, list) else value


def _events(span: Any) -> Iterator[Content]:
    for event in span.events:
        for key, value in (event.attributes or {}).items():
            replace = functools.partial(internals.replace_event_attribute, event, key)
            yield from _content("event", key, value, replace, is_json=False)


def _error(span: Any) -> Iterator[Content]:
    description = span.status.description
    if description:
        replace = functools.partial(internals.replace_status_description, span)
        yield from _content("error", "error", description, replace, is_json=False)


def _trace(span: Any) -> Iterator[Content]:
    info = internals.trace_info(span)
    if info is not None:
        yield from _texts("tag", info.tags)
        yield from _texts("metadata", info.trace_metadata)
        # What the user chose as previews; MLflow makes its own of the root's inputs and outputs as they leave.
        previews = {name: getattr(info, name) for name in ("request_preview", "response_preview")}
        for name, text in previews.items():
            yield from _content("metadata", name, text, functools.partial(setattr, info, name), is_json=False)


def _texts(place: Place, texts: MutableMapping[str, str]) -> Iterator[Content]:
    for name, text in _snapshot(texts):
        yield from _content(place, name, text, functools.partial(texts.__setitem__, name), is_json=False)


def _snapshot(texts: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the items as they are: another thread may add one meanwhile."""
    return list(texts.items())
