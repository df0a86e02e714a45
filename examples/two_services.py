"""Two services, one trace: a program asks another one over HTTP, and both are in the tree.

Run as it is, it starts the other service on a free port of this machine, and stops it again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, make_server

import dspy
import flask
import mlflow
import requests
from dspy.utils.dummies import DummyLM
from trees import open_store, print_tree, stored_traces

from dspy_mlflow_callbacks import MlflowCallback, TraceWSGIMiddleware, trace_client, trace_context


class Answers(dspy.Module):
    """Asks the other service."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.session = trace_client(requests.Session())  # each request carries the trace

    def forward(self, question: str) -> str:
        """Return the other service's answer."""
        response = self.session.post(f"{self.url}/answer", json={"question": question}, timeout=60)
        return str(response.json()["answer"])


def service() -> flask.Flask:
    """Return the other service, whose program runs below the caller's span."""
    program = dspy.ChainOfThought("question -> answer")
    app = flask.Flask(__name__)
    app.wsgi_app = TraceWSGIMiddleware(app.wsgi_app)  # type: ignore[method-assign]

    @app.post("/answer")
    def answer() -> dict[str, str]:
        return {"answer": program(**flask.request.get_json()).answer}

    return app


class Quiet(WSGIRequestHandler):
    """Logs no requests."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def serve() -> None:
    """Serve until nobody writes to this process any more."""
    dspy.configure(lm=DummyLM([{"reasoning": "It says so.", "answer": "yes"}]), callbacks=[MlflowCallback()])
    with make_server("127.0.0.1", 0, service(), handler_class=Quiet) as server:
        threading.Thread(target=lambda: (sys.stdin.read(), server.shutdown())).start()
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()


def main() -> None:
    """Ask the other service, and print the trace."""
    with tempfile.TemporaryDirectory() as folder:
        experiment_id = open_store(Path(folder))
        other = subprocess.Popen(  # noqa: S603  (this very file)
            [sys.executable, __file__, "serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri()},
        )
        url = other.stdout.readline().strip() if other.stdout else ""
        dspy.configure(callbacks=[MlflowCallback()])
        with trace_context(session_id="a conversation"):
            print(Answers(url)(question="Are two services one trace?"))
        other.communicate()  # it ends, and stores what it has

        for trace in stored_traces(experiment_id):
            print_tree(trace)


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["serve"] else main()
