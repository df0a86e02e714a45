"""What leaves the process with a span and its trace: its content goes through the payload steps first."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any

import orjson

from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.payload import Payload, PayloadSteps
from dspy_mlflow_callbacks.payload.step import Place
from dspy_mlflow_callbacks.spans.attributes import CALL_ID

# What MLflow and this package say of the span itself, and what is only numbers: no step is asked for it.
_OWN = frozenset(
    {
        internals.REQUEST_ID,
        internals.SPAN_TYPE,
        internals.LOG_LEVEL,
        internals.EXPERIMENT_ID,
        CALL_ID,
        "dspy.kind",
        "dspy.cpu_time_s",
        "mlflow.chat.tokenUsage",
        "mlflow.llm.cost",
    }
)
_PLACES: dict[str, Place] = {internals.INPUTS: "inputs", internals.OUTPUTS: "outputs"}

# What leaves: place, name, text, whether it is JSON, and what puts another text there.
Content = tuple[Place, str, str, bool, Callable[[str], object]]


def run_steps(steps: PayloadSteps, content: Iterable[Content], failed: Callable[[Exception], object]) -> None:
    """Run *steps* on all content that is about to leave, whoever put it there.

    Args:
        steps: The payload steps.
        content: Of `span_content` and `trace_content`.
        failed: Told of each step that failed.
    """
    content = list(content)
    if steps.clears("\n".join([f'"{name}":{text}' for _, name, text, _, _ in content])):
        return
    payloads = [
        Payload(place=place, name=name, text=text, is_json=is_json) for place, name, text, is_json, _ in content
    ]
    for (*_, replace), before, after in zip(content, payloads, steps.run(payloads, failed), strict=True):
        if after.text != before.text:
            replace(after.text)


def are_clear(spans: Iterable[Any], steps: PayloadSteps) -> bool:
    """Return whether *steps* would change nothing of what *spans* say; where it takes more than one look, False."""
    texts = []
    for span in spans:
        if span.events or span.status.description:
            return False
        texts += [f'"{_PLACES.get(key, key)}":{value}' for key, value in span.attributes.items() if key not in _OWN]
    return steps.clears("\n".join(texts))


def span_content(span: Any, set_attribute: Callable[[str, Any], object]) -> Iterator[Content]:
    """Yield what a span says.

    Args:
        span: OpenTelemetry's span, or a light one.
        set_attribute: Puts another value under an attribute's name, whether the span has ended or not.
    """
    for key, value in span.attributes.copy().items():
        if key not in _OWN:
            place: Place = _PLACES.get(key, "attribute")
            name = key if place == "attribute" else place
            yield from _content(place, name, value, functools.partial(set_attribute, key), is_json=True)
    for event in span.events:
        for key, value in (event.attributes or {}).items():
            replace = functools.partial(internals.replace_event_attribute, event, key)
            yield from _content("event", key, value, replace, is_json=False)
    description = span.status.description
    if description:
        yield "error", "error", description, False, functools.partial(internals.replace_status_description, span)


def trace_content(tags: MutableMapping[str, str], metadata: MutableMapping[str, str]) -> Iterator[Content]:
    """Yield what a trace says beside its spans."""
    yield from _texts("tag", tags)
    yield from _texts("metadata", metadata)


def preview_content(info: Any) -> Iterator[Content]:
    """Yield what the user chose as previews; MLflow makes its own of the root's inputs and outputs as they leave.

    Args:
        info: MLflow's `TraceInfo`.
    """
    previews = {name: getattr(info, name) for name in ("request_preview", "response_preview")}
    for name, text in previews.items():
        yield from _content("metadata", name, text, functools.partial(setattr, info, name), is_json=False)


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


def _texts(place: Place, texts: MutableMapping[str, str]) -> Iterator[Content]:
    for name, text in _snapshot(texts):
        yield from _content(place, name, text, functools.partial(texts.__setitem__, name), is_json=False)


def _snapshot(texts: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the items as they are: another thread may add one meanwhile."""
    return list(texts.items())
