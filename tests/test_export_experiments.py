"""Experiments of traces that ended before their server could say which one it is: found when they are delivered."""

from __future__ import annotations

import attrs
import mlflow
import pytest
from ended import EndedTrace, stored_ids
from mlflow.entities import TraceInfo, TraceLocation, TraceState

from dspy_mlflow_callbacks.export import experiments
from dspy_mlflow_callbacks.export.batch import Batch, Entry
from dspy_mlflow_callbacks.export.errors import RefusedError, StoreAwayError
from dspy_mlflow_callbacks.export.experiments import to_be_found, with_experiment
from dspy_mlflow_callbacks.export.tracking_store import deliver
from dspy_mlflow_callbacks.export.waiting import Destination


@pytest.fixture
def client(tmp_path):
    experiments._known.cache_clear()
    return mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")


def batch_for(uri, name, **extras):
    trace = EndedTrace(Destination(tracking_uri=uri, experiment_id=to_be_found(name)))
    trace.extras |= extras
    return trace, Batch(trace.destination, [Entry(0, trace, 1, trace.prepared())])


def test_it_is_found_or_made(client):
    """A name is found, or made where there is none; an id is found where none has that name."""
    found = client.create_experiment("there")
    cases = {"there": found, found: found, "new": str(int(found) + 1)}
    for name, expected in cases.items():
        trace, batch = batch_for(client.tracking_uri, name)
        deliver(batch)
        assert trace.id in stored_ids(attrs.evolve(trace.destination, experiment_id=expected))
    assert client.get_experiment_by_name("new").experiment_id == cases["new"]


def test_what_is_said_of_the_trace_names_it_too(client):
    """MLflow's `TraceInfo` of such a trace names the experiment that was found."""
    found = client.create_experiment("there")
    info = TraceInfo("tr-1", TraceLocation.from_experiment_id("name:there"), 1, TraceState.OK)
    _, batch = batch_for(client.tracking_uri, "there", info=info)
    assert with_experiment(batch).destination.experiment_id == info.experiment_id == found


def test_one_that_is_deleted_refuses_its_traces(client):
    """Traces of a deleted experiment are refused, all of them, with what brings it back."""
    client.delete_experiment(client.create_experiment("gone"))
    with pytest.raises(RefusedError, match="it is deleted; `mlflow experiments restore") as raised:
        deliver(batch_for(client.tracking_uri, "gone")[1])
    assert raised.value.is_for_all


def test_a_number_is_not_made_into_a_name(client):
    """An id that is not there is refused."""
    with pytest.raises(RefusedError):
        deliver(batch_for(client.tracking_uri, "98765")[1])


def test_a_server_that_is_away_is_asked_once(httpserver):
    """Before MLflow's client, which would try for minutes, the server is asked whether it is there."""
    httpserver.expect_request("/version").respond_with_data(status=503)
    with pytest.raises(StoreAwayError):
        deliver(batch_for(httpserver.url_for("").rstrip("/"), "there")[1])
    assert len(httpserver.log) == 1
