"""What MLflow sends to an OTLP backend (`OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mlflow.tracing.processor.otel import OtelSpanProcessor
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind

Describe = Callable[[ReadableSpan], "Mapping[str, Any] | None"]
"""From a span that has ended to its attributes in OpenTelemetry's words; None where the span is not ours."""

_TAG = "mlflow.traceTag."
_FACTS = (
    "name",
    "context",
    "parent",
    "resource",
    "events",
    "links",
    "kind",
    "status",
    "start_time",
    "end_time",
    "instrumentation_scope",
)
_TARGETS = ("gen_ai.tool.name", "gen_ai.agent.name", "gen_ai.request.model")
_OF_CLIENTS = frozenset({"chat", "text_completion", "embeddings", "retrieval"})


class DescribingProcessor(OtelSpanProcessor):
    """MLflow's processor of spans that leave for an OTLP backend, which describes ours in OpenTelemetry's words too.

    What it adds stands on a copy: where MLflow's store gets the span as well, it gets it without. MLflow writes the
    trace's tags into the root, and would lose it where it is no copy: a span that has ended does not change.
    """

    describe: Describe

    def on_end(self, span: ReadableSpan) -> None:
        """Export *span*."""
        described = self.describe(span)
        cls = ReadableSpan if described is None else _Described
        super().on_end(_copy(cls, span, attributes={**(span.attributes or {}), **(described or {})}))

    def _translate_span(self, span: ReadableSpan) -> ReadableSpan:
        """Return *span* in OpenTelemetry's words alone; MLflow asks under `MLFLOW_ENABLE_OTEL_GENAI_SEMCONV`."""
        translated: ReadableSpan = _alone(span) if isinstance(span, _Described) else super()._translate_span(span)
        return translated


class _Described(ReadableSpan):
    """A span of ours, as it leaves."""


def _copy(cls: type[ReadableSpan], span: ReadableSpan, **changes: Any) -> ReadableSpan:
    return cls(**{**{name: getattr(span, name) for name in _FACTS}, **changes})


def _alone(span: ReadableSpan) -> ReadableSpan:
    """Return *span* without what MLflow says, but for the trace's tags, and with a name by the conventions.

    MLflow's own translation names every span that is not of generative AI by its type.
    """
    said = span.attributes or {}
    kept = {key: value for key, value in said.items() if not key.startswith("mlflow.") or key.startswith(_TAG)}
    operation = said.get("gen_ai.operation.name")
    if operation is None:
        return _copy(ReadableSpan, span, attributes=kept)
    target = next((said[key] for key in _TARGETS if key in said), span.name)
    kind = SpanKind.CLIENT if operation in _OF_CLIENTS else span.kind
    return _copy(ReadableSpan, span, attributes=kept, name=f"{operation} {target}", kind=kind)


def describe_for_otlp(processors: Iterable[OtelSpanProcessor], describe: Describe) -> None:
    """Let MLflow's *processors* say what *describe* says of a span, too."""
    for processor in processors:
        # MLflow has made it, holds it in several places and asks for its class: it stays the same object.
        processor.describe = describe
        processor.__class__ = DescribingProcessor
