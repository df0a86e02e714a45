"""What a report on many traces takes: `python benchmarks/report.py 100000`.

Traces of a real program are stored once by the engine, and then again and again with other ids, times, models and
tokens; to store them takes ten times as long as to report on them.
"""

from __future__ import annotations

import json
import os
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import dspy
import mlflow
from dspy.utils.dummies import DummyLM
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, TraceFlags

from dspy_mlflow_callbacks import MlflowCallback, flush, trace_report
from dspy_mlflow_callbacks import mlflow_internals as internals

BATCH = 200
DAYS_NS = 14 * 86_400 * 10**9
MODELS = ("openai/gpt-4o-mini", "openai/gpt-4o", "anthropic/claude")


def recorded(experiment_id):
    """Return the spans of one call of a program, as MLflow keeps them."""
    lm = DummyLM([{"reasoning": "because", "answer": "42"}])
    with dspy.context(lm=lm, adapter=dspy.ChatAdapter(), callbacks=[MlflowCallback(experiment=experiment_id)]):
        dspy.ChainOfThought("question -> answer")(question="why?")
    flush()
    (trace,) = mlflow.MlflowClient().search_traces(locations=[experiment_id])
    return [internals.otel_span(span) for span in trace.data.spans]


def copied(spans, begins_ns, chance):
    """Return the spans as another trace."""
    trace_id, ids = chance.getrandbits(128), {span.context.span_id: chance.getrandbits(64) for span in spans}
    first, slower = min(span.start_time for span in spans), chance.lognormvariate(0, 0.6) * 300

    def context(span):
        return span and SpanContext(trace_id, ids[span.span_id], is_remote=False, trace_flags=TraceFlags(1))

    return [
        ReadableSpan(
            name=span.name,
            context=context(span.context),
            parent=context(span.parent),
            resource=span.resource,
            attributes={**span.attributes, "mlflow.traceRequestId": f'"tr-{trace_id:032x}"', **billed(span, chance)},
            status=span.status,
            start_time=begins_ns + int((span.start_time - first) * slower),
            end_time=begins_ns + int((span.end_time - first) * slower),
        )
        for span in spans
    ]


def billed(span, chance):
    if span.attributes["mlflow.spanType"] != '"CHAT_MODEL"':
        return {}
    asked, answered = chance.randint(100, 900), chance.randint(10, 300)
    tokens = {"input_tokens": asked, "output_tokens": answered, "total_tokens": asked + answered}
    cost = {"input_cost": asked * 1e-6, "output_cost": answered * 4e-6, "total_cost": asked * 1e-6 + answered * 4e-6}
    said = {"mlflow.llm.model": chance.choice(MODELS), "mlflow.chat.tokenUsage": tokens, "mlflow.llm.cost": cost}
    return {key: json.dumps(value) for key, value in said.items()}


def main(count):
    folder = Path(tempfile.mkdtemp(prefix="report_"))
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    experiment_id = mlflow.create_experiment("report", artifact_location=folder.as_uri())
    spans, chance, now = recorded(experiment_id), random.Random(1), time.time_ns()  # noqa: S311  (made-up calls)
    begins = [now - DAYS_NS + number * DAYS_NS // count for number in range(count)]
    for start in range(0, count, BATCH):
        batch = [span for each in begins[start : start + BATCH] for span in copied(spans, each, chance)]
        internals.write_spans(mlflow.get_tracking_uri(), experiment_id, batch)
    before, cpu = time.perf_counter(), time.process_time()
    made = trace_report(by="model")
    made.save(folder / "report.html")
    took, spent = time.perf_counter() - before, time.process_time() - cpu
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    calls = made.to_dict()["all"]["calls"]
    print(f"{calls:,} traces, {len(spans)} spans each: {took:.1f} s, {spent:.1f} s of CPU, {memory} MB at most.")
    print(f"The page is {folder / 'report.html'}.")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 10_000)
