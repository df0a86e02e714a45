"""The digest that tells demos from others, at every call anew."""

from __future__ import annotations

import hashlib

import dspy
import pytest

from dspy_mlflow_callbacks.describe import demos
from dspy_mlflow_callbacks.describe.demos import demos_digest
from dspy_mlflow_callbacks.describe.payloads import plain_example, to_json
from dspy_mlflow_callbacks.describe.signatures import program_fingerprint


def example(**fields):
    return dspy.Example(**{"question": "q", "answer": "a", **fields})


class Odd(dspy.Example):
    """Has fields that are not in its store."""

    def items(self, include_dspy=False):
        return [("odd", True)]


def with_unnamed_field():
    made = example()
    made[5] = "five"
    return made


HELD = [
    [],
    [example()],
    [example(), {"question": "q", "answer": "a"}],
    [example(augmented=True, note=None)],
    [example(count=1)],
    [example(score=-0.0)],
    [example(context=["c"], inner=example())],
    [example(dspy_uuid="1")],
    [example(text="lone \ud800 surrogate")],
    [dspy.Prediction(answer="a")],
    [Odd(question="q")],
    [with_unnamed_field()],
    ["a text", None],
    (example(),),
]


@pytest.mark.parametrize("held", HELD)
def test_digest_is_of_the_demos_as_json(held):
    """The digest is that of the demos as JSON, in every process, whatever they hold."""
    expected = hashlib.sha256(to_json(list(held)).encode()).hexdigest()[:16]
    assert [demos_digest(held), demos_digest(held)] == [expected, expected]


@pytest.mark.parametrize("held", HELD)
def test_plain_example_shows_the_same(held):
    """What is made plain to be written faster is written as the same text."""
    assert [to_json(plain_example(demo)) for demo in held] == [to_json(demo) for demo in held]


def test_demos_digest():
    """Equal demos have equal digests; a changed word gives another one."""
    first = [dspy.Example(question="q", answer="a")]
    assert demos_digest(first) == demos_digest([dspy.Example(question="q", answer="a")])
    assert demos_digest(first) != demos_digest([dspy.Example(question="q", answer="b")])
    assert len(demos_digest(first)) == 16


@pytest.mark.parametrize(
    "change",
    [
        lambda held: held.append(example()),
        lambda held: held.pop(),
        lambda held: held.append(held.pop(1)),
        lambda held: held.__setitem__(0, example(answer="b")),
        lambda held: setattr(held[0], "answer", "b"),
        lambda held: setattr(held[0], "more", None),
        lambda held: held[0].__delitem__("answer"),
        lambda held: held[1].context.append("more"),
        lambda held: held[1].context[0].update(a=2),
        lambda held: held[2].update(answer="b"),
    ],
    ids=[
        "appended",
        "removed",
        "reordered",
        "replaced",
        "field reassigned",
        "field added",
        "field removed",
        "list in a field",
        "dict in a list in a field",
        "field of a dict",
    ],
)
def test_changed_demo_is_seen(change):
    """Whatever is changed in a demo, its predictor is described anew at the next call."""
    predict = dspy.Predict("question -> answer")
    predict.demos = [example(), example(context=[{"a": 1}]), {"question": "q", "answer": "a"}]
    before = demos_digest(predict.demos), program_fingerprint(predict)
    change(predict.demos)
    after = demos_digest(predict.demos), program_fingerprint(predict)
    assert before[0] != after[0]
    assert before[1] != after[1]


@pytest.mark.parametrize(("one", "other"), [(True, 1), (1, 1.0), (0.0, -0.0), (False, 0), (None, False), ("1", 1)])
def test_demos_that_are_equal_and_look_different(one, other):
    """Values that Python holds for equal and JSON writes differently have different digests."""
    assert demos_digest([example(answer=one)]) != demos_digest([example(answer=other)])


def test_known_demos_are_bounded():
    """Programs that choose their demos for each question do not fill the memory."""
    limit = demos._known_digest.cache_parameters()["maxsize"]
    for number in range(limit + 2):
        demos_digest([example(question=str(number))])
    assert demos._known_digest.cache_info().currsize == limit
