"""A program below a remote parent of which MLflow has heard nothing: the context came another way than MLflow's."""

from __future__ import annotations

import dspy
import mlflow
import pytest
from opentelemetry import trace as otel
from opentelemetry.sdk.trace import TracerProvider
from programs import Runs

from dspy_mlflow_callbacks import MlflowCallback, mlflow_internals

SAMPLED = otel.TraceFlags(otel.TraceFlags.SAMPLED)


@pytest.fixture
def trace_id():
    """Let a remote span be the active one, and return the id of its trace."""
    drawn = mlflow_internals.ids.generate_trace_id()
    remote = otel.SpanContext(drawn, 0xDEF, is_remote=True, trace_flags=SAMPLED)
    leave = mlflow_internals.tracer().attach(otel.NonRecordingSpan(remote))
    yield f"tr-{drawn:032x}"
    leave()


@pytest.mark.parametrize("look", [lambda _: None, lambda _: mlflow.get_current_active_span().name])
def test_its_spans_join_the_remote_trace(dspy_traces, trace_id, look):
    """The program's spans are stored in the remote trace, below the remote span, whether somebody looks or not."""
    with dspy.context(callbacks=[MlflowCallback(tags={"team": "search"}, engine="recorded")]):
        Runs(look)(given=1)
    mlflow.flush_trace_async_logging()
    (span,) = mlflow.get_trace(trace_id).data.spans
    assert (span.name, span.parent_id) == ("Runs", f"{0xDEF:016x}")


def test_a_provider_that_is_not_mlflows_has_no_recorder():
    """Where spans go through other processors than MLflow's one for a tracking store, the native engine serves."""
    assert mlflow_internals.Recorder.find(TracerProvider(shutdown_on_exit=False)) is None
