"""Runs programs beside OpenInference in a process of its own and prints what was recorded and said as JSON.

The argument says which OpenTelemetry provider OpenInference has. A process has one for all of OpenTelemetry, and MLflow
joins it when it opens its first span.
"""

from __future__ import annotations

import json
import sys
import uuid

import dspy
import mlflow
import peer_programs
from expected import ordered
from offline_lm import OfflineLM
from openinference.instrumentation.dspy import DSPyInstrumentor
from opentelemetry import trace as otel
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from warned import Warnings

from dspy_mlflow_callbacks import MlflowCallback
from dspy_mlflow_callbacks.testing.captured import CapturedTraces, tree

mode = sys.argv[1]
experiment = mlflow.set_experiment(uuid.uuid4().hex)
ours = MlflowCallback()
exporter = InMemorySpanExporter()
left = []


def provider():
    if mode == "MLflow's bridged provider":
        return mlflow.tracing.get_bridged_tracer_provider()
    made = TracerProvider()
    made.add_span_processor(SimpleSpanProcessor(exporter))
    if mode.startswith("MLflow's provider"):
        otel.set_tracer_provider(made)
    return made


def run(callbacks, programs=peer_programs.PROGRAMS):
    """Run each program and return the trees of MLflow's traces and of OpenInference's, by the program's name."""
    recorded = {"mlflow": {}, "openinference": {}}
    for program in programs:
        before = {each.info.trace_id for each in traces()}
        exporter.clear()
        with dspy.context(lm=OfflineLM(answer="42"), callbacks=callbacks):
            program()
        new = [each for each in traces() if each.info.trace_id not in before]
        recorded["mlflow"][program.__name__] = ordered(span for each in new for span in tree(each))
        recorded["openinference"][program.__name__] = openinference_tree(exporter.get_finished_spans(), None)
        if otel.get_current_span().get_span_context().is_valid or mlflow.get_current_active_span() is not None:
            left.append(program.__name__)
    return recorded


def traces():
    return CapturedTraces(experiment.experiment_id).all()


def openinference_tree(spans, parent_id):
    return sorted(
        [span.name, span.status.status_code.name, openinference_tree(spans, span.context.span_id)]
        for span in spans
        if (span.parent.span_id if span.parent else None) == parent_id
    )


warnings = Warnings().listen()
said = {}
tracer_provider = provider()
if mode == "MLflow's provider from the start":
    DSPyInstrumentor().instrument(tracer_provider=tracer_provider)
    said["both"] = run([ours], [peer_programs.call])
else:
    said["alone"] = run([ours])
    DSPyInstrumentor().instrument(tracer_provider=tracer_provider)
    said["theirs"] = run([])
    said["both"] = run([ours])
if ours.stats().open:
    left.append("open calls")
sys.stdout.write(json.dumps({**said, "warnings": warnings.messages, "left": left}))
