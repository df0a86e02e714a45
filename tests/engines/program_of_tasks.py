"""The program of the engines' tests: ten spans a task."""

from __future__ import annotations

import os
import time
from pathlib import Path

import dspy
from offline_lm import OfflineLM

SPANS = 10


class Answers(dspy.Module):
    """Ten spans; a question may say that it fails, or that its worker dies in the middle of it."""

    def __init__(self):
        super().__init__()
        self.first, self.second = dspy.Predict("question -> answer"), dspy.Predict("question -> answer")
        self.between = Between()

    def forward(self, question):
        self.first(question=question)
        self.between(question)
        return self.second(question=question)


class Between(dspy.Module):
    """What happens between two predictors."""

    def forward(self, question):
        if question.startswith("fails"):
            raise ValueError(question)
        if question == "kills each worker":
            os._exit(1)
        if question.startswith("dies in "):
            die_once(Path(question.removeprefix("dies in ")))


def die_once(folder):
    """End the worker at the first attempt, once the test has seen in the store what the task has made so far."""
    try:
        (folder / "died").touch(exist_ok=False)
    except FileExistsError:
        return
    while not (folder / "is stored").exists():
        time.sleep(0.05)
    os._exit(1)


program = Answers()
LM = OfflineLM()


def answer(question):
    return program(question=question).answer
