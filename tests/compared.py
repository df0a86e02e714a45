"""Programs whose traces are compared."""

from __future__ import annotations

import dspy
import mlflow
from offline_lm import OfflineLM
from openai_server import BACKENDS, chat, choice, usage

from dspy_mlflow_callbacks import trace_context


class Answers(dspy.Module):
    """Calls its steps one after the other."""

    def __init__(self, *steps: str, instructions: str = "Answer.") -> None:
        super().__init__()
        self.steps = steps
        for step in steps:
            setattr(self, step, dspy.Predict(dspy.Signature("question -> answer", instructions)))

    def forward(self, question: str) -> dspy.Prediction:
        for step in self.steps:
            answer = getattr(self, step)(question=question)
        return answer


def traced(traces, program: dspy.Module, *questions: str, lm=None, **scope):
    """Run *program* on each question; returns the new traces, oldest first."""
    before = {trace.info.trace_id for trace in traces.all()}
    with dspy.context(lm=lm or OfflineLM()), trace_context(**scope):
        for question in questions or ("why?",):
            program(question=question)
    return [trace for trace in traces.all() if trace.info.trace_id not in before]


def version(traces, name: str, program: dspy.Module, *questions: str, lm=None):
    """Run *program* as a version: its traces have its name as tag."""
    return traced(traces, program, *questions, lm=lm, tags={"version": name})


def priced(server, *counts: int) -> dspy.LM:
    """Return an LM with a price whose answers cost 100 prompt tokens, and as many as *counts* says, one by one."""
    texts = choice("[[ ## answer ## ]]\n42\n\n[[ ## completed ## ]]")
    server.script(*(chat(texts, counts=usage(100, count)) for count in counts))
    return server.lm(BACKENDS[0])


def score(trace, value, name: str = "quality") -> None:
    """Log feedback on a stored trace."""
    mlflow.log_feedback(trace_id=trace.info.trace_id, name=name, value=value)
