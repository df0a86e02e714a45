"""What leaves the process with a span: its content goes through the payload steps when the span closes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.payload import Payload, PayloadSteps
from dspy_mlflow_callbacks.payload.step import Place

# What MLflow and this package say of the span itself: no step is asked for it.
_OWN = frozenset({internals.REQUEST_ID, internals.SPAN_TYPE, internals.LOG_LEVEL, internals.EXPERIMENT_ID})
_PLACES: dict[str, Place] = {internals.INPUTS: "inputs", internals.OUTPUTS: "outputs"}


def run_steps(steps: PayloadSteps, span: Any, failed: Callable[[Exception], object], *, with_trace: bool) -> None:
    """Run *steps* on all content of a span that is about to end, whoever put it there.

    Args:
        steps: The payload steps.
        span: OpenTelemetry's span.
        failed: Told of each step that failed.
        with_trace: Whether the tags and metadata of its trace are looked at too.
    """
    content = [*_attributes(span), *_events(span), *_error(span)]
    if with_trace:
        content += _trace(span)
    payloads = [payload for payload, _ in content]
    for (before, replace), after in zip(content, steps.run(payloads, failed), strict=True):
        if after is not before and after.text != before.text:
            replace(after.text)


Content = tuple[Payload, Callable[[str], object]]  # what leaves, and what puts another text in its place


def _attributes(span: Any) -> Iterator[Content]:
    for key, text in span.attributes.items():
        if isinstance(text, str) and key not in _OWN:
            place: Place = _PLACES.get(key, "attribute")
            yield Payload(place=place, name=key if place == "attribute" else place, text=text), _setter(span, key)


def _setter(span: Any, key: str) -> Callable[[str], object]:
    return lambda text: span.set_attribute(key, text)


def _events(span: Any) -> Iterator[Content]:
    for event in span.events:
        for key, text in (event.attributes or {}).items():
            if isinstance(text, str):
                yield Payload(place="event", name=key, text=text, is_json=False), _event_setter(event, key)


def _event_setter(event: Any, key: str) -> Callable[[str], object]:
    return lambda text: internals.replace_event_attribute(event, key, text)


def _error(span: Any) -> Sequence[Content]:
    description = span.status.description
    if not description:
        return ()
    payload = Payload(place="error", name="error", text=description, is_json=False)
    return [(payload, lambda text: internals.replace_status_description(span, text))]


def _trace(span: Any) -> Iterator[Content]:
    info = internals.trace_info(span)
    if info is not None:
        yield from _texts("tag", info.tags)
        yield from _texts("metadata", info.trace_metadata)


def _texts(place: Place, texts: dict[str, str]) -> Iterator[Content]:
    for name, text in list(texts.items()):
        yield Payload(place=place, name=name, text=text, is_json=False), _item_setter(texts, name)


def _item_setter(texts: dict[str, str], name: str) -> Callable[[str], object]:
    return lambda text: texts.__setitem__(name, text)
