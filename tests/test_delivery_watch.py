"""Whether a tracking server is there is asked once, in the background."""

from __future__ import annotations

import logging
import socket
import threading

import dspy
import pytest
from programs import Echo
from stored import tracking_to
from werkzeug import Response

from dspy_mlflow_callbacks import MlflowCallback
from dspy_mlflow_callbacks.spans.delivery_watch import DeliveryWatch


def probe(uri: str) -> None:
    """Ask the server at *uri*, and wait for the answer."""
    watch = DeliveryWatch()
    with tracking_to(uri):
        watch.probe()
        watch.probe()
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


@pytest.mark.warns
def test_a_server_that_is_away_is_said(warned):
    """A server that does not answer is said once, without credentials."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        port = taken.getsockname()[1]
        probe(f"http://ann:secret@127.0.0.1:{port}")
    (message,) = warned.messages
    assert message.startswith(f"Traces are not stored in http://127.0.0.1:{port}: the server does not answer")


@pytest.mark.engine("native")
def test_the_native_engine_without_payload_steps(dspy_traces):
    """Where no payload step is asked for, the native engine stores what it has as it is."""
    with dspy.context(callbacks=[MlflowCallback(redact=False)]):
        Echo()(question="api_key=sk-1234")
    assert dspy_traces.spans()[0].inputs == {"question": "api_key=sk-1234"}
