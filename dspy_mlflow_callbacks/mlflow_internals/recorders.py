"""Where MLflow stores traces by itself, and whether the recorded engine may do so in its place."""

from __future__ import annotations

from typing import Any

import attrs
import mlflow
from mlflow.tracing import provider
from mlflow.tracing.constant import SpanAttributeKey
from mlflow.tracing.export.mlflow_v3 import MlflowV3SpanExporter
from mlflow.tracing.processor import base_mlflow
from mlflow.tracing.processor.mlflow_v3 import MlflowV3SpanProcessor
from mlflow.tracing.trace_manager import InMemoryTraceManager
from mlflow.tracing.utils.otlp import should_use_otlp_exporter
from mlflow.utils.databricks_utils import is_in_databricks_model_serving_environment
from mlflow.utils.uri import is_databricks_uri
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, DEFAULT_ON

from dspy_mlflow_callbacks.mlflow_internals.memory_store import SCHEME as MEMORY_SCHEME

SQL_SCHEMES = frozenset({"sqlite", "postgresql", "mysql", "mssql"})
HTTP_SCHEMES = frozenset({"http", "https"})

# What light spans and their delivery stand on; where an MLflow release has it no more, the native engine serves.
_NEEDED = (
    (base_mlflow, "_batch_processor_registry"),
    (InMemoryTraceManager, "register_trace"),
    (InMemoryTraceManager, "register_span"),
    (MlflowV3SpanProcessor, "_update_trace_info"),
    (provider, "get_context_api"),
    (SpanAttributeKey, "TRACE_TAG_PREFIX"),  # spans can carry a trace's tags
)


def scheme_of(uri: str) -> str:
    """Return the scheme of a store's address without the database's driver: `postgresql` of `postgresql+psycopg2://`."""
    return uri.partition(":")[0].partition("+")[0]


def missing_in_mlflow() -> str | None:
    """Return what this release of MLflow lacks that the recorded engine stands on; None if nothing."""
    missing = [name for owner, name in _NEEDED if not hasattr(owner, name)]
    return f"MLflow {mlflow.__version__} has no {', '.join(missing)}" if missing else None


def why_not_recorded() -> str | None:
    """Return what is in the way of the recorded engine where traces go now; None if nothing is.

    Nothing is opened or asked for: what MLflow is set to is all that is looked at.
    """
    missing = missing_in_mlflow()
    if missing is not None:
        return missing
    if should_use_otlp_exporter():
        return "traces go to an OTLP endpoint (OTEL_EXPORTER_OTLP_TRACES_ENDPOINT or OTEL_EXPORTER_OTLP_ENDPOINT)"
    if not provider.MLFLOW_USE_DEFAULT_TRACER_PROVIDER.get():
        return "MLflow shares OpenTelemetry's tracer provider (MLFLOW_USE_DEFAULT_TRACER_PROVIDER=false)"
    if shares_context():
        return "MLflow shares OpenTelemetry's context (MLFLOW_TRACE_PROPAGATE_TO_OTEL_CONTEXT=true)"
    return _why_not_stored_in(mlflow.get_tracking_uri())


def shares_context() -> bool:
    """Return whether MLflow's spans stand in OpenTelemetry's own context too, for other instrumentations to see."""
    variable = getattr(provider, "MLFLOW_TRACE_PROPAGATE_TO_OTEL_CONTEXT", None)  # since MLflow 3.15
    return variable is not None and bool(variable.get())


def _why_not_stored_in(uri: str) -> str | None:
    scheme = scheme_of(uri)
    if is_databricks_uri(uri) or scheme not in SQL_SCHEMES | HTTP_SCHEMES | {MEMORY_SCHEME}:
        return (
            f"the tracking URI is of the kind {scheme!r}; allowed are {', '.join(sorted(SQL_SCHEMES | HTTP_SCHEMES))}"
        )
    return None


@attrs.frozen(eq=False)
class Recorder:
    """MLflow's own way to store traces in a tracking store: what the recorded engine takes the place of.

    Attributes:
        tracking_uri: The tracking store.
        processor: MLflow's span processor.
        is_synchronous: Whether MLflow stores a trace in the thread that ends it: `MLFLOW_ENABLE_ASYNC_TRACE_LOGGING`.
        sampler: MLflow's sampler; None where it keeps everything.
    """

    tracking_uri: str
    processor: Any
    is_synchronous: bool
    sampler: Any

    @property
    def is_database(self) -> bool:
        """Whether this process writes to the store itself, and no server does."""
        return scheme_of(self.tracking_uri) in SQL_SCHEMES

    @property
    def adds_up(self) -> bool:
        """Whether the store makes of a trace's spans what is known of the trace as a whole."""
        return scheme_of(self.tracking_uri) != MEMORY_SCHEME

    @classmethod
    def find(cls, tracer_provider: Any) -> Recorder | None:
        """Return the recorder where *tracer_provider* stores in a tracking store and does nothing else."""
        if (
            why_not_recorded() is not None
            or is_in_databricks_model_serving_environment()
            or not isinstance(tracer_provider, TracerProvider)
        ):
            return None
        processors: Any = tracer_provider._active_span_processor._span_processors
        if [type(each) for each in processors] != [MlflowV3SpanProcessor]:
            return None
        exporter = processors[0].span_exporter
        if type(exporter) is not MlflowV3SpanExporter or processors[0]._export_metrics:
            return None
        uri = exporter._client.tracking_uri
        if _why_not_stored_in(uri) is not None:
            return None
        sampler = None if tracer_provider.sampler in (ALWAYS_ON, DEFAULT_ON) else tracer_provider.sampler
        return cls(uri, processors[0], not exporter._is_async_enabled, sampler)

    def drops(self, otel_trace_id: int, name: str) -> bool:
        """Return whether MLflow's sampler drops a trace that begins here: `MLFLOW_TRACE_SAMPLING_RATIO`."""
        return (
            self.sampler is not None
            and not self.sampler.should_sample(Context(), otel_trace_id, name).decision.is_sampled()
        )
