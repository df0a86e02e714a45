"""`program_fingerprint`: a program's structure, signatures, instructions and demos in 16 digits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Literal, Optional

import cloudpickle
import dspy
import pytest
from offline_lm import OfflineLM

from dspy_mlflow_callbacks import program_fingerprint


class Answer(dspy.Signature):
    """Answer the question."""

    question: str = dspy.InputField(desc="what is asked")
    hint: Optional[str] = dspy.InputField()  # noqa: UP045  (shown alike by all versions of Python)
    tone: Literal["kind", "plain"] = dspy.OutputField()
    answers: list[Optional[str]] = dspy.OutputField()  # noqa: UP045  (shown alike by all versions of Python)


class Support(dspy.Module):
    """Two predictors, one of them in a list."""

    def __init__(self):
        super().__init__()
        self.think = dspy.ChainOfThought("question -> answer")
        self.steps = [dspy.Predict(Answer)]

    def forward(self, question):
        return self.think(question=question)


def support(**demo):
    program = Support()
    program.steps[0].demos = [dspy.Example(question="why?", answers=["because"], augmented=True, **demo)]
    return program


IT_IS = "4810fc38d0d3bd16"
"""What every process and version of Python says of `support()`."""


def test_it_is_the_same_everywhere():
    """A program has the same fingerprint in every process and version of Python."""
    assert program_fingerprint(support()) == IT_IS
    code = "from test_program_fingerprint import *; print(program_fingerprint(support()))"
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "7",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [IT_IS]


def resaved_as_state(program, folder):
    program.save(folder / "program.json")
    again = Support()
    again.load(folder / "program.json")
    return again


def resaved_whole(program, folder):
    program.save(folder / "program", save_program=True)
    return dspy.load(folder / "program", allow_pickle=True)


def pickled(program, folder):
    return cloudpickle.loads(cloudpickle.dumps(program))


def copied(program, folder):
    return program.deepcopy()


@pytest.mark.parametrize("again", [resaved_as_state, resaved_whole, pickled, copied])
def test_saved_and_loaded_it_is_the_same(tmp_path, again):
    """A program that is saved and loaded, pickled or copied keeps its fingerprint."""
    assert program_fingerprint(again(support(), tmp_path)) == program_fingerprint(support())


def test_the_lm_is_no_part_of_it():
    """Neither the LM of a program nor a key in its parameters, nor the answers that it gave, make another one."""
    program = support()
    program.set_lm(dspy.LM("openai/gpt-4o", api_key="sk-" + "a1B2" * 12, temperature=0.7))
    assert program_fingerprint(program) == program_fingerprint(support())
    program.set_lm(OfflineLM())
    program(question="why?")
    assert program_fingerprint(program) == program_fingerprint(support())


def with_instructions(text):
    program = support()
    program.steps[0].signature = program.steps[0].signature.with_instructions(text)
    return program


def with_another_field():
    program = support()
    program.steps[0].signature = program.steps[0].signature.append("note", dspy.OutputField(), str)
    return program


def with_another_description():
    program = support()
    program.steps[0].signature = program.steps[0].signature.with_updated_fields("question", desc="what is asked?")
    return program


def with_one_predictor_more():
    program = support()
    program.steps.append(dspy.Predict("question -> answer"))
    return program


OTHERS = {
    "an instruction": lambda: with_instructions("Answer the question!"),
    "a field": with_another_field,
    "a description": with_another_description,
    "a demo": lambda: support(tone="kind"),
    "a predictor": with_one_predictor_more,
    "a class": lambda: dspy.ChainOfThought("question -> answer"),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_what_makes_another_one(other):
    """One character of an instruction, a field, a description, a demo or a predictor makes another fingerprint."""
    assert program_fingerprint(other()) != program_fingerprint(support())


def test_it_is_on_roots(dspy_traces):
    """A trace's root says the fingerprint of the program that was called."""
    program = support()
    with dspy.context(lm=OfflineLM()):
        program(question="why?")
    root = dspy_traces.one().data.spans[0]
    assert root.get_attribute("dspy.program.fingerprint") == program_fingerprint(program)


def test_what_is_no_program():
    """Anything but a module is refused by name."""
    with pytest.raises(TypeError, match=r"program must be a dspy\.Module, got 'Support'"):
        program_fingerprint("Support")
