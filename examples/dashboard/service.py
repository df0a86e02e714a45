"""A service that is watched: its traces are in MLflow, its counters are where Prometheus scrapes them.

It answers questions from a text all the time, until its input ends (Ctrl-D) or `--calls` have been made.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import dspy
import mlflow
from opentelemetry import metrics
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import start_http_server

sys.path.insert(0, str(Path(__file__).parent.parent))  # the other examples

from demo import TEXT, BM25Search, read_passages
from offline import OfflineEngine
from trees import open_store

from dspy_mlflow_callbacks import MlflowCallback, flush, trace_context

QUESTIONS = ("Who shall chuse the Speaker?", "Who has the sole power to try all impeachments?", "")


class Answers(dspy.Module):
    """Looks passages up with a tool, and answers from them; an empty question is an error."""

    def __init__(self, passages: list[str]) -> None:
        super().__init__()
        self.search = BM25Search(passages, k=2)
        self.look_up = dspy.Tool(self.passages_for, name="look_up")
        self.answer = dspy.Predict("passages: list[str], question -> answer")

    def passages_for(self, question: str) -> list[str]:
        """Find passages."""
        return self.search(question).passages

    def forward(self, question: str) -> dspy.Prediction:
        """Return an answer."""
        if not question:
            message = "There is no question."
            raise ValueError(message)
        return self.answer(passages=self.look_up(question=question), question=question)


def watched(port: int) -> None:
    """Let this package's counters be scraped at a port of this machine."""
    metrics.set_meter_provider(MeterProvider([PrometheusMetricReader()]))
    start_http_server(port, addr="127.0.0.1")
    print(f"metrics: http://127.0.0.1:{port}/metrics", flush=True)


def serve(experiment_id: str, numbers: Iterator[int], ended: threading.Event) -> None:
    """Answer questions of two users, and judge the answers."""
    program = Answers(read_passages(TEXT.read_text(encoding="utf-8")))
    for number in numbers:
        if ended.wait(0.05):
            break
        user = ("ada", "bob")[number % 2]
        with trace_context(user=user, session_id=f"chat-of-{user}"):
            try:
                answer = program(question=QUESTIONS[number % len(QUESTIONS)]).answer
            except ValueError:
                continue
        if number < len(QUESTIONS):
            flush()
            (trace, *_) = mlflow.search_traces(locations=[experiment_id], max_results=1, return_type="list")
            mlflow.log_feedback(trace_id=trace.info.trace_id, name="has_source", value="Article" in answer)


def main() -> None:
    """Serve until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=9464)
    parser.add_argument("--calls", type=int, help="how many; without it, until the input ends")
    parser.add_argument("--store", type=Path, default=Path("demo"))
    options = parser.parse_args()

    watched(options.port)
    experiment_id = open_store(options.store)
    # The engine works offline; by the model's name its tokens have a price.
    lm = dspy.LM("openai/gpt-4o-mini", engine=OfflineEngine(), cache=False)
    dspy.configure(lm=lm, callbacks=[MlflowCallback(tags={"service": "answers"})])

    ended = threading.Event()
    numbers = itertools.count() if options.calls is None else iter(range(options.calls))
    # The input is waited for in a thread; DSPy's settings are this one's.
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    serve(experiment_id, numbers, ended)
    flush()
    print("served", flush=True)
    ended.wait()


if __name__ == "__main__":
    main()
