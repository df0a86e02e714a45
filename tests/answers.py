"""Programs that `run` is tested with."""

from __future__ import annotations

import asyncio
import threading

import dspy


class Answers(dspy.Module):
    """Answers with its question, or as its question asks: it fails, once or always, or waits."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()
        self.asked = []

    def __getstate__(self):
        return {**super().__getstate__(), "go_on": None}  # in another process nobody waits

    def forward(self, question):
        self.asked.append(question)
        if question == "wait":
            assert self.go_on.wait(60)
        return self.answer(question)

    async def aforward(self, question):
        self.asked.append(question)
        while question == "wait" and not self.go_on.is_set():  # noqa: ASYNC110  (a thread's event)
            await asyncio.sleep(0.01)
        return self.answer(question)

    def answer(self, question):
        if question == "fail" or (question == "fail once" and self.asked.count(question) == 1):
            raise ValueError(f"I do not know: {question}")
        if question == "exit":
            raise SystemExit(3)
        if question == "last":
            self.go_on.set()
        return dspy.Prediction(answer=question.upper())


def asking(*questions):
    """Return inputs."""
    return [{"question": question} for question in questions]
