"""What spans say of signatures, demos and whole programs."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Literal, Optional

import dspy
import pytest

from dspy_mlflow_callbacks.describe import signatures
from dspy_mlflow_callbacks.describe.signatures import (
    fingerprint_attributes,
    program_fingerprint,
    signature_attributes,
)


class Typed(dspy.Signature):
    """Say it."""

    text: str = dspy.InputField(desc="any text")
    numbers: list[int] = dspy.InputField()
    label: Literal["a", "b"] = dspy.OutputField()
    note: Optional[str] = dspy.OutputField()  # noqa: UP045  (shown alike)


def program(signature=Typed, demos=()):
    made = dspy.ChainOfThought(signature)
    made.predict.demos = list(demos)
    return made


def attributes(signature):
    return {key: json.loads(text) for key, text in signature_attributes(signature).items()}


def test_signature_attributes():
    """A signature shows its text, its instructions, and the type and description of each field."""
    shown = attributes(Typed)
    assert shown["dspy.signature"] == "text, numbers -> label, note"
    assert shown["dspy.instructions"] == "Say it."
    assert {name: field["type"] for name, field in shown["dspy.fields"]["inputs"].items()} == {
        "text": "str",
        "numbers": "list[int]",
    }
    assert {name: field["type"] for name, field in shown["dspy.fields"]["outputs"].items()} == {
        "label": "typing.Literal['a', 'b']",
        "note": "str | None",
    }
    assert shown["dspy.fields"]["inputs"]["text"]["desc"] == "any text"


def test_types_that_are_shown_alike():
    """Types are written as every version of Python would, whatever they are made of."""

    class Lists(dspy.Signature):
        any_number: tuple[int, ...] = dspy.InputField()
        nested: dict[str, list[Optional[int]]] = dspy.OutputField()  # noqa: UP045  (shown alike)

    fields = attributes(Lists)["dspy.fields"]
    assert fields["inputs"]["any_number"]["type"] == "tuple[int, ...]"
    assert fields["outputs"]["nested"]["type"] == "dict[str, list[int | None]]"


def test_changed_instruction_is_seen():
    """New instructions are shown, whether in a new signature or set on the old one."""
    signature = dspy.Signature("question -> answer", "first")
    shown = [attributes(signature), attributes(signature.with_instructions("second"))]
    signature.instructions = "third"
    shown.append(attributes(signature))
    assert [each["dspy.instructions"] for each in shown] == ["first", "second", "third"]


def test_replaced_signature_is_seen():
    """A predictor whose signature is replaced is another program."""
    made = program()
    before = program_fingerprint(made)
    made.predict.signature = made.predict.signature.with_updated_fields("text", desc="some text")
    assert program_fingerprint(made) != before


def test_instruction_that_is_set_in_place_is_seen():
    """A predictor whose signature gets other instructions is another program."""
    made = program()
    before = program_fingerprint(made)
    made.predict.signature.instructions = "Say it!"
    assert program_fingerprint(made) != before


def test_predictor_that_comes_or_goes_is_seen():
    """A predictor that is set, put in a list of others, or taken away changes the fingerprint."""
    outer = dspy.Module()
    outer.steps = [dspy.Example()]
    seen = [program_fingerprint(outer)]
    outer.inner = dspy.Predict("a -> b")
    seen.append(program_fingerprint(outer))
    outer.steps.append(dspy.Predict("a -> b"))
    seen.append(program_fingerprint(outer))
    assert len(set(seen)) == 3
    del outer.inner
    del outer.steps[1]
    assert program_fingerprint(outer) == seen[0]


def test_known_signatures_are_bounded():
    """Programs that make signatures on the fly do not fill the memory."""
    limit = signatures._described.cache_parameters()["maxsize"]
    for number in range(limit + 2):
        signature_attributes(dspy.Signature(f"question -> answer{number}"))
    assert signatures._described.cache_info().currsize == limit


@pytest.mark.parametrize(
    "other",
    [
        program(Typed.with_instructions("Say it!")),
        program(demos=[dspy.Example(text="t")]),
        program(Typed.with_updated_fields("text", desc="some text")),
        dspy.Predict(Typed),
        dspy.ReAct(Typed, tools=[]),
    ],
    ids=["instruction", "demo", "field", "class", "predictors"],
)
def test_fingerprint_differs(other):
    """One character of an instruction, a demo, a field or another module gives another fingerprint."""
    assert program_fingerprint(program()) != program_fingerprint(other)


def test_fingerprint_finds_the_predictors_of_dspy():
    """The fingerprint is made of the predictors that DSPy names."""

    class Many(dspy.Module):
        def __init__(self):
            super().__init__()
            self.steps = [dspy.Predict("a -> b"), (dspy.Predict("hidden -> b"),), "text"]
            self.by_name = {"x": dspy.ChainOfThought("a -> b")}
            self.again = self.steps[0]

    made = Many()
    assert {predictor for _, predictor in signatures.predictors(made)} == set(made.predictors())
    assert sorted(path for path, _ in signatures.predictors(made)) == [".again", ".by_name['x'].predict"]


@pytest.mark.parametrize("prepare", [lambda made: setattr(made.inner, "_compiled", True), lambda made: None])
def test_demo_of_a_frozen_program_is_part_of_the_fingerprint(prepare):
    """A sub-program that was compiled, which DSPy then leaves alone, is still a part of the program."""

    def made(*demos):
        outer = dspy.Module()
        outer.inner = program(demos=demos)
        prepare(outer)
        return outer

    assert program_fingerprint(made()) != program_fingerprint(made(dspy.Example(text="t")))


def test_what_dspy_remembers_of_calls_is_no_part_of_the_program():
    """A module's history of calls is left alone, whatever lies in it."""
    made = program()
    before = program_fingerprint(made)
    made.history = [dspy.Predict("a -> b")]
    assert program_fingerprint(made) == before


def test_ring_of_modules_has_a_fingerprint():
    """Modules that hold each other are looked into once."""
    outer = program()
    before = program_fingerprint(outer)
    outer.predict.outer = outer
    assert program_fingerprint(outer) == before


def test_fingerprint_is_without_the_lm():
    """The LM is no part of the fingerprint: the same program on two models is the same program."""
    with_lm = program()
    with_lm.set_lm(dspy.LM("openai/gpt-4o", api_key="sk-secret", temperature=1.0))
    assert program_fingerprint(with_lm) == program_fingerprint(program())


def test_fingerprint_is_the_same_in_every_process():
    """Equal programs have equal fingerprints in two processes, also where a demo holds a set or an object."""
    script = (
        "import dspy; from dspy_mlflow_callbacks.describe.signatures import program_fingerprint\n"
        "program = dspy.Predict('question -> answer')\n"
        "program.demos = [dspy.Example(question=set('abcdefghij'), answer=object())]\n"
        "fingerprint = program_fingerprint(program)"
    )
    here = {}
    exec(script, here)
    there = subprocess.run(
        [sys.executable, "-c", f"{script}\nprint(fingerprint)"], check=True, capture_output=True, text=True
    )
    assert there.stdout.split() == [here["fingerprint"]]


def test_what_is_no_program_has_no_fingerprint():
    """Only modules have a fingerprint."""
    assert fingerprint_attributes(len) == {}


@pytest.mark.skipif(not hasattr(dspy.Predict("q -> a"), "fields"), reason="per-field settings came with DSPy 3.4")
def test_fingerprint_has_the_fields_settings():
    """A threshold that was set on a Predict's field is part of the program."""
    changed = program()
    changed.predict.fields = {"label": {"threshold": 0.9}}
    assert program_fingerprint(changed) != program_fingerprint(program())
