"""Traces over real processes: services behind servers, and many workers on one trace, on both engines."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from contextlib import contextmanager

import dspy
import mlflow
import pytest
import requests
from programs import Runs
from tracking_server import TrackingServer

from dspy_mlflow_callbacks import MlflowCallback, TracedThreadPoolExecutor, flush, inject_headers, trace_client

PROGRAM = '''
import os, sys, time, dspy, mlflow
from dspy.utils.dummies import DummyLM
from dspy_mlflow_callbacks import MlflowCallback, mlflow_internals

USAGE = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}

class Spends(dspy.Module):
    """Costs tokens."""
    def forward(self):
        span = mlflow.get_current_active_span()
        if span is not None:
            span.set_attribute("mlflow.chat.tokenUsage", USAGE)

class Answers(dspy.Module):
    """Ten spans."""
    def __init__(self):
        super().__init__()
        self.first, self.second = dspy.Predict("question -> answer"), dspy.Predict("question -> answer")
        self.spends = Spends()
    def forward(self, question):
        self.spends()
        self.first(question=question)
        return self.second(question=question)

class LM(DummyLM):
    def _use_example(self, messages):
        return "[[ ## answer ## ]]\\n42\\n\\n[[ ## completed ## ]]"

dspy.configure(lm=LM([], follow_examples=True), callbacks=[MlflowCallback()])
program = Answers()

def open_store():
    """Take the time that opening the store needs on a busy machine: a program's first call would not wait for it."""
    for _ in range(100):
        try:
            return mlflow_internals.tracer()
        except Exception:
            time.sleep(0.5)

mlflow.search_experiments(max_results=1)
open_store()
'''
SPANS_OF_PROGRAM = 10

ANSWERS = """
from program import *
import flask
from dspy_mlflow_callbacks import TraceWSGIMiddleware

app = flask.Flask(__name__)
app.wsgi_app = TraceWSGIMiddleware(app.wsgi_app)

@app.post("/answer")
def answer():
    return {"answer": program(question=flask.request.json["question"]).answer, "pid": os.getpid()}
"""

GATEWAY = """
from program import *
import requests
from fastapi import FastAPI
from dspy_mlflow_callbacks import TraceASGIMiddleware, trace_client

app = FastAPI()
app.add_middleware(TraceASGIMiddleware)
session = trace_client(requests.Session())

class Gateway(dspy.Module):
    def forward(self, question):
        return session.post(os.environ["ANSWERS"] + "/answer", json={"question": question}).json()

gateway = Gateway()

@app.post("/ask")
def ask(body: dict):
    return gateway(question=body["question"])
"""

WORKER = """
from program import *
import json
from concurrent.futures import ThreadPoolExecutor
from dspy_mlflow_callbacks import continue_trace

headers, tasks = json.loads(sys.argv[1]), int(sys.argv[2])
with ThreadPoolExecutor(4) as pool:
    list(pool.map(lambda number: continue_trace(headers)(program)(question=str(number)), range(tasks)))
"""


@pytest.fixture(params=["auto", "native"])
def store(request, tmp_path, monkeypatch):
    """Let this process and those that it starts store traces in one database, with one engine."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    yield from stored_in(uri, request.param, tmp_path, monkeypatch)


@pytest.fixture(params=["auto", "native"])
def server(request, tmp_path, monkeypatch):
    """Let this process and those that it starts store traces in a tracking server, with one engine."""
    server = TrackingServer(tmp_path).start()
    try:
        yield from stored_in(server.uri, request.param, tmp_path, monkeypatch)
    finally:
        server.stop()


def stored_in(uri, engine, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("DSPY_MLFLOW_ENGINE", engine)
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "true")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    mlflow.tracing.reset()
    mlflow.set_experiment("driver")
    for name, text in {"program": PROGRAM, "answers": ANSWERS, "gateway": GATEWAY, "worker": WORKER}.items():
        (folder / f"{name}.py").write_text(text)
    with dspy.context(callbacks=[MlflowCallback()]):
        yield folder
    mlflow.flush_trace_async_logging()
    mlflow.set_tracking_uri(before)


@contextmanager
def running(folder, name, *command, **environment):
    """Run a server on a free port, until the block ends; yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", *[part.format(port=port) for part in command]]
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, start_new_session=True, env={**os.environ, **environment}
        )
    try:
        until(lambda: is_up(f"http://127.0.0.1:{port}") or process.poll() is not None)
        assert process.poll() is None, (folder / f"{name}.log").read_text()[-3000:]
        yield f"http://127.0.0.1:{port}"
    finally:
        os.kill(process.pid, signal.SIGTERM)  # the master, which lets its workers finish
        process.wait(60)


def is_up(url):
    try:
        with urllib.request.urlopen(url, timeout=5):  # noqa: S310  (the test's own server)
            return True
    except urllib.error.HTTPError:
        return True
    except (urllib.error.URLError, OSError):
        return False


def until(holds, seconds=150.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it does not come about"
        time.sleep(0.2)


def only_trace():
    (trace,) = mlflow.search_traces(
        return_type="list", locations=[mlflow.get_experiment_by_name("driver").experiment_id]
    )
    return trace


def below(trace):
    """Return how many spans of each name there are below each name."""
    names = {span.span_id: span.name for span in trace.data.spans}
    names[None] = None
    return Counter((names.get(span.parent_id, "an orphan"), span.name) for span in trace.data.spans)


GUNICORN = ["gunicorn", "--preload", "--workers", "4", "--bind", "127.0.0.1:{port}", "answers:app"]
UVICORN = ["uvicorn", "--port", "{port}", "gateway:app"]


@pytest.mark.timeout(280)
def test_a_call_over_two_services_is_one_trace(store):
    """A program calls FastAPI under uvicorn, which calls Flask under gunicorn's four workers: one trace."""
    calls = 12
    with running(store, "answers", *GUNICORN) as answers, running(store, "gateway", *UVICORN, ANSWERS=answers) as url:
        session = trace_client(requests.Session())

        def ask(number):
            return session.post(f"{url}/ask", json={"question": str(number)}, timeout=60).json()

        def drive(_):
            with TracedThreadPoolExecutor(8) as pool:
                return list(pool.map(ask, range(calls)))

        answered = Runs(drive)()
    assert flush()
    assert {each["answer"] for each in answered} == {"42"}
    assert len({each["pid"] for each in answered}) > 1
    trace = only_trace()
    found = below(trace)
    assert "an orphan" not in {above for above, _ in found}, found
    assert sum(found.values()) == 1 + calls * (1 + SPANS_OF_PROGRAM)
    assert found[None, "Runs"] == 1
    assert found["Runs", "Gateway"] == found["Gateway", "Answers"] == found["Answers", "Answers.first"] == calls
    assert trace.info.token_usage == {"input_tokens": calls, "output_tokens": 2 * calls, "total_tokens": 3 * calls}
    assert trace.info.state == "OK"


def work(folder, headers, processes, tasks):
    """Run the worker in so many processes at once, and wait for them."""
    command = [sys.executable, "worker.py", json.dumps(headers), str(tasks)]
    running = [subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE) for _ in range(processes)]
    for process in running:
        _, errors = process.communicate(timeout=250)
        assert process.returncode == 0, errors.decode()[-3000:]


def check_workers(folder, is_after):
    processes, tasks = 4, 25

    def drive(_):
        headers = inject_headers()
        if not is_after:
            work(folder, headers, processes, tasks)
        return headers

    headers = Runs(drive)()
    if is_after:
        assert flush()
        work(folder, headers, processes, tasks)
    assert flush()
    trace = only_trace()
    found = below(trace)
    calls = processes * tasks
    assert sum(found.values()) == 1 + calls * SPANS_OF_PROGRAM
    assert found["Runs", "Answers"] == found["Answers.second", "ChatAdapter.parse"] == calls
    assert trace.info.token_usage == {"input_tokens": calls, "output_tokens": 2 * calls, "total_tokens": 3 * calls}
    assert trace.info.state == "OK"


@pytest.mark.timeout(280)
@pytest.mark.parametrize("is_after", [False, True])
def test_many_workers_on_one_trace(store, is_after):
    """Four processes of four threads write into one trace at once: every span arrives once, and tokens add up."""
    check_workers(store, is_after)


@pytest.mark.timeout(280)
def test_many_workers_through_a_tracking_server(server):
    """The same through a tracking server."""
    check_workers(server, is_after=False)


@pytest.mark.timeout(280)
def test_workers_obey_the_drivers_sampling(store):
    """Workers of a driver that leaves its trace out record nothing."""
    with dspy.context(callbacks=[MlflowCallback(sampling_ratio=0.0)]):
        headers = Runs(lambda _: inject_headers())()
    work(store, headers, 1, 2)
    assert mlflow.search_traces(return_type="list") == []
