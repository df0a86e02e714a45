"""Inside a call that is left out: nothing is recorded, and for everybody else it is a call like any other."""

from __future__ import annotations

import contextlib

import dspy
import pytest
from heard import Heard
from programs import Program, answering

from dspy_mlflow_callbacks import LMCallback, MlflowCallback, RatioSampler, autolog

pytestmark = pytest.mark.usefixtures("nothing_left")


class Around(dspy.Module):
    """Runs a function, then a program in DSPy's threads."""

    def __init__(self, function=lambda: None):
        super().__init__()
        self.program, self.function = Program(), function

    def forward(self):
        self.function()
        return dspy.Parallel(num_threads=2, disable_progress_bar=True)([(self.program, {"question": "why?"})] * 2)


def fails():
    raise ValueError("no")


def test_other_callbacks_hear_the_same(dspy_traces):
    """A callback of somebody else's hears of a call that is sampled out, and of all below it, as without ours."""
    alone, beside = Heard(), Heard()
    with dspy.context(lm=answering(), callbacks=[alone]):
        Around()()
    with dspy.context(lm=answering(), callbacks=[MlflowCallback(sampling_ratio=0.0), beside]):
        Around()()
    assert beside.kinds == alone.kinds
    assert dspy_traces.all() == []


@pytest.mark.parametrize(
    ("function", "ending"),
    [(lambda: None, contextlib.nullcontext()), (fails, pytest.raises(ValueError, match="no"))],
    ids=["well", "failing"],
)
def test_the_settings_are_as_before(dspy_traces, function, ending):
    """After a call that is sampled out, however it ended, the same callbacks hear the next one."""
    drops = [True, False]
    callback = MlflowCallback(middleware=[lambda call: None if call.is_root and drops.pop(0) else call])
    with dspy.context(lm=answering(), callbacks=[callback]):
        with ending:
            Around(function)()
        assert dspy.settings.callbacks == [callback]
        Program()(question="why?")
    assert [trace.info.tags["mlflow.traceName"] for trace in dspy_traces.all()] == ["Program"]


def test_a_callback_that_is_set_inside_records_nothing(dspy_traces):
    """A trace that is sampled out stays so where the program sets a callback of ours inside it."""

    def sets_another():
        with dspy.context(callbacks=[*dspy.settings.callbacks, MlflowCallback()]):
            Program()(question="why?")

    with dspy.context(lm=answering(), callbacks=[MlflowCallback(sampling_ratio=0.0)]):
        Around(sets_another)()
    assert dspy_traces.all() == []


def test_callbacks_of_one_kind_beside_it_record_nothing(dspy_traces):
    """What one callback of this package samples out, another one beside it does not record either."""
    with dspy.context(lm=answering(), callbacks=[MlflowCallback(sampling_ratio=0.0), LMCallback()]):
        Around()()
    assert dspy_traces.all() == []


def test_autolog_samples_the_same_way(dspy_traces):
    """What `autolog` samples out has no spans further down, and DSPy's settings stay the program's."""
    callbacks = []

    def looks():
        callbacks.append(dspy.settings.callbacks)

    with dspy.context(lm=answering(), callbacks=[]):
        try:
            autolog(sampling_ratio=0.0)
            Around(looks)()
        finally:
            autolog(disable=True)
    assert (callbacks, dspy_traces.all()) == ([[]], [])


def test_a_dropped_part_leaves_the_rest(dspy_traces):
    """After a part of a program that a middleware drops, the trace goes on."""

    class Two(dspy.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = Around(), dspy.Predict("question -> answer")

        def forward(self):
            self.first()
            return self.second(question="why?")

    callback = MlflowCallback(
        level="info", middleware=[RatioSampler(1.0), lambda call: None if call.name == "Two.first" else call]
    )
    with dspy.context(lm=answering(), callbacks=[callback]):
        Two()()
    assert dspy_traces.tree() == [
        ("Two", "CHAIN", "OK", [("Two.second", "CHAIN", "OK", [("dummy", "CHAT_MODEL", "OK", [])])])
    ]
    assert callback.stats().dropped == 1
