"""Ended traces, as an engine hands them to the exporter, and where they are looked for afterwards."""

from __future__ import annotations

import json
import random
import threading
import time
from pathlib import Path

import mlflow
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags

from dspy_mlflow_callbacks.export.waiting import Destination, Prepared

NOWHERE = Destination(tracking_uri="nowhere://store", experiment_id="1")
WAIT_SECONDS = 60.0


def new_destination(uri, name):
    """Return a new experiment in the store at *uri*."""
    return Destination(tracking_uri=uri, experiment_id=mlflow.MlflowClient(uri).create_experiment(name))


def spans_of_a_trace(count=3, **attributes):
    """Return a root and its children, as MLflow keeps them: each attribute a JSON text."""
    trace_id, now = random.getrandbits(128) or 1, time.time_ns()
    contexts = [SpanContext(trace_id, random.getrandbits(64) or 1, False, TraceFlags(1)) for _ in range(count)]
    values = {"mlflow.traceRequestId": f"tr-{trace_id:032x}", "mlflow.spanType": "CHAIN", **attributes}
    return [
        ReadableSpan(
            name=f"span {number}",
            resource=Resource.get_empty(),
            context=context,
            parent=contexts[0] if number else None,
            attributes={key: json.dumps(value) for key, value in values.items()},
            status=Status(StatusCode.OK),
            start_time=now + number,
            end_time=now + 1_000_000 + number,
        )
        for number, context in enumerate(contexts)
    ]


class EndedTrace:
    """A trace that waits to be delivered, and keeps what it is told."""

    def __init__(self, destination=NOWHERE, *, spans=None, size=1000, **extras):
        self.destination, self.size, self.extras = destination, size, extras
        self.spans = spans_of_a_trace() if spans is None else spans
        self.told = []
        self._is_told = threading.Event()

    @property
    def id(self):
        return f"tr-{self.spans[0].context.trace_id:032x}"

    def prepared(self):
        return Prepared(trace_id=self.id, spans=self.spans, **self.extras)

    def done(self, outcome, error=None):
        self.told.append((outcome, error and str(error)))
        self._is_told.set()

    def outcome(self):
        """Wait for the outcome, and return it."""
        assert self._is_told.wait(WAIT_SECONDS), "the trace was never told what became of it"
        ((outcome, _),) = self.told
        return outcome


class FakeStore:
    """Takes batches, or fails as it is told to: `store.fails` says for a batch which error is raised.

    One that does not answer yet does so when `store.may_answer` is set.
    """

    def __init__(self, *, answers=True):
        self.batches, self.asked = [], 0
        self.fails = lambda batch: None
        self.may_answer, self.is_asked = threading.Event(), threading.Event()
        if answers:
            self.may_answer.set()

    def __call__(self, batch):
        self.asked += 1
        self.is_asked.set()
        assert self.may_answer.wait(WAIT_SECONDS)
        error = self.fails(batch)
        if error is not None:
            raise error
        self.batches.append([entry.trace for entry in batch.entries])

    @property
    def traces(self):
        return [trace for batch in self.batches for trace in batch]


def wait_until(condition):
    """Wait for a condition that another thread or process brings about."""
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def stored_ids(destination):
    """Return the ids of all traces of an experiment, those of its run if it has one; twice if they are there twice."""
    client, found, token = mlflow.MlflowClient(destination.tracking_uri), [], None
    while True:
        page = client.search_traces(
            locations=[destination.experiment_id],
            run_id=destination.run_id,
            max_results=500,
            page_token=token,
            include_spans=False,
        )
        found += [trace.info.trace_id for trace in page]
        token = page.token
        if not token:
            return sorted(found)


def is_alive(pid):
    """Return whether a process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
