"""Replay: a stored trace runs again offline, a changed program is compared with it, and a fork goes on from it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import dspy
import mlflow
from dspy.utils.dummies import DummyLM
from trees import open_store

from dspy_mlflow_callbacks import MlflowCallback, flush, replay


class Answers(dspy.Module):
    """Looks something up, and answers with it."""

    def __init__(self) -> None:
        super().__init__()
        self.look_up = dspy.Tool(population)
        self.answer = dspy.ChainOfThought("question, population: int -> answer")

    def forward(self, question: str, city: str) -> dspy.Prediction:
        """Answer a question on a city."""
        return self.answer(question=question, population=self.look_up(city=city))


def population(city: str) -> int:
    """Return how many people live in a city."""
    print(f"(looking up {city})")
    return {"Bonn": 331_000}[city]


def main() -> None:
    """Record a call, then replay it: unchanged, with other instructions, and with another LM from a span on."""
    with tempfile.TemporaryDirectory() as folder:
        open_store(Path(folder))
        program = Answers()
        with dspy.context(
            lm=DummyLM([{"reasoning": "331,000 is less.", "answer": "no"}]), callbacks=[MlflowCallback()]
        ):
            print("Recorded:", program(question="Is it a million?", city="Bonn").answer)
            flush()
            trace_id = mlflow.get_last_active_trace_id()

        again = replay(trace_id, program)
        print("Replayed, without LM and tool:", again.outputs.answer, "| equal:", again.is_equal)

        changed = program.deepcopy()
        signature = changed.answer.predict.signature.with_instructions("Answer with a whole sentence.")
        changed.answer.predict.signature = signature
        (divergence,) = replay(trace_id, changed).divergences
        print(f"Changed: {divergence.span}, {divergence.field}")
        print("\n".join(line for line in divergence.diff.splitlines() if line[0] in "+-"))

        other = DummyLM([{"reasoning": "It is 331,000.", "answer": "It is not."}])
        forked = replay(trace_id, changed, mode="live", from_span="Answers.answer", lm=other)
        print("Forked:", forked.outputs.answer)


if __name__ == "__main__":
    main()
