"""The counters as OpenTelemetry metrics."""

from __future__ import annotations

import gc

import attrs
import pytest
from opentelemetry import metrics as api
from opentelemetry.metrics import _internal as proxies
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from programs import Echo

from dspy_mlflow_callbacks import MlflowCallback, RatioSampler, Stats
from dspy_mlflow_callbacks.metrics import _OF_PROCESS, COUNTERS, Metrics
from dspy_mlflow_callbacks.stats import Counters


@pytest.fixture
def read(monkeypatch):
    """Return a function that reads all metrics by name, with a meter provider of the test's own."""
    reader = InMemoryMetricReader()
    monkeypatch.setattr(proxies, "_METER_PROVIDER", MeterProvider([reader], shutdown_on_exit=False))

    def values() -> dict[str, int]:
        data = reader.get_metrics_data()
        found = data.resource_metrics[0].scope_metrics if data else []
        return {
            metric.name: metric.data.data_points[0].value
            for scope in found
            if scope.scope.name == "dspy_mlflow_callbacks"
            for metric in scope.metrics
        }

    return values


def sums(**counted: int) -> dict[str, int]:
    """Return what is read where no call runs."""
    counts = {each.name: counted.get(name, 0) for name, each in COUNTERS.items()}
    return {**counts, **{each.name: 0 for each, _ in _OF_PROCESS}}


def test_counters_are_metrics(read, nothing_open):
    """Each counter is the sum over all that are watched, and the process has its gauges."""
    metrics, first, second = Metrics(), Counters(), Counters()
    metrics.watch(first)
    metrics.watch(second)
    for _ in range(3):
        first.started()
        second.started()
    second.lost()
    assert read() == sums(started=6, lost=1)
    assert first.stats(open=0, queued=0, bytes=0).started == 3


def test_sums_never_fall(read):
    """What a callback counted stays in the sums when it is gone, and it is not held for them."""
    metrics, counters = Metrics(), Counters()
    metrics.watch(counters)
    counters.stored()
    assert read()["dspy_mlflow.traces.stored"] == 1
    del counters
    gc.collect()
    assert read()["dspy_mlflow.traces.stored"] == 1
    assert metrics._live == {}


def test_a_provider_that_comes_later(monkeypatch):
    """A program may set its meter provider when callbacks are there already."""
    monkeypatch.setattr(proxies, "_METER_PROVIDER", None)
    monkeypatch.setattr(proxies, "_METER_PROVIDER_SET_ONCE", proxies.Once())
    monkeypatch.setattr(proxies, "_PROXY_METER_PROVIDER", proxies._ProxyMeterProvider())
    metrics, counters = Metrics(), Counters()
    metrics.watch(counters)
    counters.started()
    reader = InMemoryMetricReader()
    api.set_meter_provider(MeterProvider([reader], shutdown_on_exit=False))
    (of_resource,) = reader.get_metrics_data().resource_metrics
    (scope,) = of_resource.scope_metrics
    points = {metric.name: metric.data.data_points[0].value for metric in scope.metrics}
    assert points["dspy_mlflow.spans.started"] == 1


def test_callbacks_are_watched(dspy_traces, monkeypatch, read):
    """What a callback counts is told, and a new callback makes no second set of instruments."""
    watching = Metrics()
    monkeypatch.setattr("dspy_mlflow_callbacks.callbacks.base.METRICS", watching)
    program = Echo()
    program.callbacks = [MlflowCallback()]
    program()
    program.callbacks = [*program.callbacks, MlflowCallback(middleware=[RatioSampler(0)])]
    program()
    dspy_traces.all()
    read_now = read()
    assert (read_now["dspy_mlflow.spans.started"], read_now["dspy_mlflow.spans.ended"]) == (2, 2)
    assert read_now["dspy_mlflow.calls.open"] == 0


def test_every_count_has_its_metric():
    """Each field of `Stats` is told: what callbacks count by counters, what the process has by the others."""
    of_process = {
        "open": "dspy_mlflow.calls.open",
        "queued": "dspy_mlflow.queue.traces",
        "bytes": "dspy_mlflow.queue.size",
    }
    assert set(COUNTERS) == set(Counters().readers())
    assert {field.name for field in attrs.fields(Stats)} == {*COUNTERS, *of_process}
    assert [each.name for each, _ in _OF_PROCESS] == list(of_process.values())
