"""Evaluations as the tests run them, and what is stored of their examples."""

from __future__ import annotations

import itertools

import dspy
from programs import Echo

EVALUATION = "dspy.evaluation.id"
INDEX = "dspy.evaluation.example_index"
FINGERPRINT = "dspy.program.fingerprint"

DEVSET = [
    dspy.Example(question=f"question {index}", answer="some answer" if index else "another").with_inputs("question")
    for index in range(4)
]
"""Examples of which `OfflineLM` answers all but the first rightly."""


def devset(count=4):
    """Return examples that differ in their question."""
    return [dspy.Example(question=f"question {index}", answer="yes").with_inputs("question") for index in range(count)]


def evaluate(metric, program=None, *, examples=None, num_threads=2, **options):
    """Evaluate *program*, which by default answers with its question, and return the result."""
    examples = devset() if examples is None else examples
    run = dspy.Evaluate(devset=examples, metric=metric, num_threads=num_threads, display_progress=False, **options)
    return run(Echo() if program is None else program)


def right(example, prediction, trace=None):
    """Return a score that is the same for all examples."""
    return True


def exact(example, prediction, trace=None):
    """Return whether the answer is that of the example."""
    return example.answer == prediction.answer


def raising_at(number, error):
    """Return a metric like `exact` that raises *error* the *number*th time."""
    calls = itertools.count(1)

    def metric(example, prediction, trace=None):
        if next(calls) == number:
            raise error
        return exact(example, prediction)

    return metric


def evaluation_of(traces):
    """Return the root of the only evaluation that is a trace of its own."""
    (root,) = [trace.data.spans[0] for trace in traces.all() if trace.info.tags["mlflow.traceName"] == "Evaluate"]
    return root


def examples_of(traces):
    """Return the traces of examples by their place in the devset."""
    found = [trace for trace in traces.all() if trace.info.tags["mlflow.traceName"] == "Example"]
    return {trace.info.tags.get(INDEX): trace for trace in found}


def said(trace):
    """Return what metrics say of a trace: name, value, rationale, and the exception's class and message."""
    return [
        (each.name, each.value, each.rationale, each.error and (each.error.error_code, each.error.error_message))
        for each in trace.info.assessments
    ]
