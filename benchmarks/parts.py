"""Parts of the way of a call, each alone: `python parts.py` prints their figures as JSON."""

from __future__ import annotations

import json
import statistics
import time
import uuid

import attrs

from dspy_mlflow_callbacks import CallKind, CallStart, RatioSampler, TagInjector
from dspy_mlflow_callbacks.describe.payloads import to_json

BATCHES = 15

PAYLOADS = {"1 kB": 1_000, "100 kB": 100_000, "10 MB": 10_000_000}
SENTENCE = 'He said: "Grüße",\nand left.\n'


def any_function(call):
    return call


MIDDLEWARE = {
    "a function that keeps all": any_function,
    "`RatioSampler(0.5)`": RatioSampler(0.5),
    "`TagInjector`": TagInjector({"team": "search", "stage": "production"}),
}


def microseconds(function, argument, number):
    """Return the median time of *function(argument)* over batches of *number*."""
    function(argument)
    batches = []
    for _ in range(BATCHES):
        start = time.perf_counter_ns()
        for _ in range(number):
            function(argument)
        batches.append((time.perf_counter_ns() - start) / number / 1e3)
    return statistics.median(batches)


def serialisation():
    return [serialised(title, size) for title, size in PAYLOADS.items()]


def serialised(title, size):
    text = (SENTENCE * (size // len(SENTENCE.encode()) + 1)).encode()[:size].decode(errors="ignore")
    time_us = microseconds(to_json, {"text": text}, number=max(1, 1_000_000 // size))
    return {"payload": title, "us": time_us, "mb_per_s": size / time_us}


def middleware():
    root_id = uuid.uuid4().hex
    root = CallStart(kind=CallKind.MODULE, call_id=root_id, root_call_id=root_id, instance=None, inputs={})
    child = attrs.evolve(root, call_id=uuid.uuid4().hex, parent=root, parent_call_id=root_id)
    return [
        {"step": title, "root_us": microseconds(step, root, 20_000), "child_us": microseconds(step, child, 20_000)}
        for title, step in MIDDLEWARE.items()
    ]


if __name__ == "__main__":
    print(json.dumps({"serialisation": serialisation(), "middleware": middleware()}))
