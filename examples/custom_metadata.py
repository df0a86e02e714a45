"""Metadata of your own: tags, session and user of each request, and attributes that a module says of itself."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import dspy
from dspy.utils.dummies import DummyLM
from trees import open_store, stored_traces

from dspy_mlflow_callbacks import MlflowCallback, trace_context


class Answers(dspy.Module):
    """Answers in a style."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.style = style
        self.answer = dspy.Predict("question, style -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        """Return an answer."""
        return self.answer(question=question, style=self.style)

    def trace_attributes(self) -> dict[str, Any]:
        """Return what the module's spans say of it."""
        return {"answers.style": self.style}


def main() -> None:
    """Answer three requests of two users, and find those of one."""
    with tempfile.TemporaryDirectory() as folder:
        experiment_id = open_store(Path(folder))
        lm = DummyLM([{"answer": "Because."}] * 3)
        dspy.configure(lm=lm, callbacks=[MlflowCallback(tags={"service": "answers"})])  # of every trace

        for user, question in (("ada", "Why?"), ("bob", "How?"), ("ada", "And why?")):
            with trace_context(user=user, session_id=f"chat-of-{user}", tags={"tenant": "acme"}):
                Answers("brief")(question=question)

        for trace in stored_traces(experiment_id, "metadata.`mlflow.trace.user` = 'ada'"):
            root = trace.data.spans[0]
            tags = {name: trace.info.tags[name] for name in ("service", "tenant")}
            print(root.inputs["question"], tags, trace.info.trace_metadata["mlflow.trace.session"])
            print("  the module says:", root.get_attribute("answers.style"))


if __name__ == "__main__":
    main()
