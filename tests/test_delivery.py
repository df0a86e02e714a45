"""Whether a tracking server is there is asked once, in the background."""

from __future__ import annotations

import logging
import threading

import mlflow
import pytest
from werkzeug import Response

from dspy_mlflow_callbacks.spans.delivery import DeliveryWatch


def probe(uri: str) -> None:
    """Ask the server at *uri*, and wait for the answer."""
    before, watch = mlflow.get_tracking_uri(), DeliveryWatch()
    mlflow.set_tracking_uri(uri)
    watch.probe()
    watch.probe()
    mlflow.set_tracking_uri(before)
    for thread in threading.enumerate():
        if thread.name == "dspy-mlflow-probe":
            thread.join()


@pytest.mark.parametrize("status", [200, 403, 404])
def test_a_server_that_answers_is_there(httpserver, warned, status):
    """Whatever it answers, a server that answers is asked once and not warned of."""
    httpserver.expect_request("/health").respond_with_response(Response(status=status))
    probe(httpserver.url_for("/"))
    assert [(request.method, request.path) for request, _ in httpserver.log] == [("GET", "/health")]
    assert warned.messages == []


def test_a_database_is_not_asked(warned):
    """A store that is no server is not asked for its health."""
    probe("sqlite:////nowhere/mlflow.db")
    assert warned.messages == []


@pytest.mark.warns
def test_lost_traces_are_said_once(warned):
    """Of MLflow's lines those on lost traces are left out, for one of ours; others pass."""
    watch = DeliveryWatch()

    def passes(message):
        return watch.filter(logging.LogRecord("mlflow", logging.WARNING, "", 0, message, None, None))

    assert passes("Failed to link prompts to trace: no")
    assert not passes("Failed to send trace to MLflow backend: disk full\nwith a long statement")
    assert not passes("Failed to send trace to MLflow backend: disk full again")
    (message,) = warned.messages
    assert message.endswith("Failed to send trace to MLflow backend: disk full. The program goes on without them.")
