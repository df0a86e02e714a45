"""DSPy's own modules and a program made of them: one call is one trace, with every part in its place."""

from __future__ import annotations

import asyncio

import dspy
import pytest
from dspy.utils.exceptions import AdapterParseError
from expected import UNPARSED, chain_of_thought, failed, ok
from offline_lm import OfflineLM
from programs import Program, answering, predict_tree, program_tree

from dspy_mlflow_callbacks.testing.captured import tree

QUESTION = "question -> answer"


def low_reward(inputs, prediction):
    return 0.0


class Vote(dspy.Module):
    """Asks once for three answers and takes the most common one."""

    def __init__(self):
        super().__init__()
        self.voters = dspy.Predict(QUESTION, n=3)

    def forward(self, question):
        return dspy.majority(self.voters(question=question))


class Outer(dspy.Module):
    """A program in a program."""

    def __init__(self):
        super().__init__()
        self.steps = [Program(), Program()]
        self.by_name = {"last": dspy.Predict(QUESTION)}

    def forward(self, question):
        for step in self.steps:
            question = step(question=question).answer
        return self.by_name["last"](question=question)


class Compare(dspy.Module):
    """Compares two attempts."""

    def __init__(self):
        super().__init__()
        self.compare = dspy.MultiChainComparison(QUESTION, M=2)

    def forward(self, question):
        return self.compare([{"reasoning": "because", "answer": "42"}] * 2, question=question)


def ensemble():
    return dspy.Ensemble(reduce_fn=dspy.majority).compile([dspy.ChainOfThought(QUESTION) for _ in range(2)])


def nested_tree():
    inner = [
        ok(f"Outer.steps[{index}]", "CHAIN", chain_of_thought(f"Outer.steps[{index}].generate")) for index in (0, 1)
    ]
    return ok("Outer", "CHAIN", *inner, predict_tree("Outer.by_name['last']"))


def vote_tree():
    (name, kind, status, (*asked, parsed)) = predict_tree("Vote.voters")
    return ok("Vote", "CHAIN", (name, kind, status, [*asked, parsed, parsed, parsed]))


MODULES = {
    "Predict": (lambda: dspy.Predict(QUESTION), predict_tree()),
    "ChainOfThought": (lambda: dspy.ChainOfThought(QUESTION), chain_of_thought()),
    "nested modules": (Outer, nested_tree()),
    "BestOfN": (
        lambda: dspy.BestOfN(dspy.ChainOfThought(QUESTION), N=2, reward_fn=low_reward, threshold=1.0),
        ok("BestOfN", "CHAIN", chain_of_thought(), chain_of_thought()),
    ),
    "Refine": (
        lambda: dspy.Refine(dspy.ChainOfThought(QUESTION), N=2, reward_fn=low_reward, threshold=1.0),
        ok("Refine", "CHAIN", chain_of_thought(), predict_tree(), chain_of_thought()),
    ),
    "MultiChainComparison": (
        Compare,
        ok("Compare", "CHAIN", ok("Compare.compare", "CHAIN", predict_tree("Compare.compare.predict"))),
    ),
    "majority": (Vote, vote_tree()),
}


@pytest.mark.parametrize(("module", "expected"), MODULES.values(), ids=MODULES)
def test_a_call_is_one_trace(dspy_traces, module, expected):
    """A call of a module is one trace with every module, format, LM call and parse below it."""
    with dspy.context(lm=OfflineLM(advice={"predict": "be brief"})):
        module()(question="why?")
    assert dspy_traces.tree() == [expected]


def test_an_ensemble_is_one_trace(dspy_traces):
    """A call of an ensemble is one trace; making the ensemble was another."""
    with dspy.context(lm=OfflineLM()):
        ensemble()(question="why?")
    members = [chain_of_thought(f"EnsembledProgram.programs[{index}]") for index in (0, 1)]
    compiled, called = dspy_traces.all()
    assert tree(compiled) == [ok("Ensemble", "WORKFLOW")]
    assert tree(called) == [ok("EnsembledProgram", "CHAIN", *members)]


def call(program):
    return program(question="why?")


def acall(program):
    return asyncio.run(program.acall(question="why?"))


@pytest.mark.parametrize(
    ("how", "extraction"),
    [
        (call, lambda steps: [ok("TwoStepAdapter.parse", "PARSER", *steps)]),
        # DSPy's async TwoStepAdapter extracts without a call of `parse`.
        (acall, lambda steps: steps),
    ],
)
def test_the_extraction_of_a_two_step_adapter_is_in_the_trace(dspy_traces, how, extraction):
    """A Predict on a TwoStepAdapter is one trace with both of its LM calls."""
    with dspy.context(lm=OfflineLM(), adapter=dspy.TwoStepAdapter(OfflineLM(answer="42"))):
        assert how(dspy.Predict(QUESTION)).answer == "42"
    (_, _, _, steps) = predict_tree()
    expected = [ok("TwoStepAdapter.format", "PARSER"), ok("dummy", "CHAT_MODEL"), *extraction(steps)]
    assert dspy_traces.tree() == [ok("Predict", "CHAIN", *expected)]


def test_a_failed_attempt_of_best_of_n_fails_alone(dspy_traces):
    """An attempt that raises has an error status; the call that goes on with the next one has not."""
    answers = [{"answer": "no reasoning"}, {"answer": "no reasoning"}, {"reasoning": "because", "answer": "42"}]
    program = dspy.BestOfN(dspy.ChainOfThought(QUESTION), N=2, reward_fn=low_reward, threshold=1.0)
    lm = answering(*answers, times=1)
    lm.copy = lambda **_: lm  # each copy would begin with the first answer again
    with dspy.context(lm=lm):
        assert program(question="why?").answer == "42"
    first = failed("ChainOfThought", "CHAIN", failed("ChainOfThought.predict", "CHAIN", *UNPARSED))
    assert dspy_traces.tree() == [ok("BestOfN", "CHAIN", first, chain_of_thought())]


@pytest.mark.parametrize("how", [call, acall])
def test_an_exception_ends_every_span_above_it(dspy_traces, how):
    """An error in a nested module gives it and all above it an error status and reaches the caller."""
    with dspy.context(lm=answering({"answer": "no reasoning"})), pytest.raises(AdapterParseError):
        how(Program())
    ((name, _, status, [(below, _, below_status, _)]),) = dspy_traces.tree()
    assert [(name, status), (below, below_status)] == [("Program", "ERROR"), ("Program.generate", "ERROR")]


def test_twenty_concurrent_calls_are_twenty_traces(dspy_traces):
    """Calls that `asyncio.gather` runs at once are one whole trace each."""

    async def gather():
        return await asyncio.gather(*(Program().acall(question="why?") for _ in range(20)))

    with dspy.context(lm=OfflineLM()):
        asyncio.run(gather())
    assert [tree(trace) for trace in dspy_traces.all()] == [[program_tree()]] * 20


def test_concurrent_calls_inside_a_module_are_one_trace(dspy_traces):
    """What a module's `aforward` gathers is in the module's trace."""

    class Gathers(dspy.Module):
        def __init__(self):
            super().__init__()
            self.predict = dspy.Predict(QUESTION)

        async def aforward(self, question):
            return await asyncio.gather(*(self.predict.acall(question=question) for _ in range(20)))

    with dspy.context(lm=OfflineLM()):
        acall(Gathers())
    assert dspy_traces.tree() == [ok("Gathers", "CHAIN", *[predict_tree("Gathers.predict")] * 20)]


def test_an_asyncified_program_is_one_trace(dspy_traces):
    """A program that `dspy.asyncify` runs in a worker thread is one trace a call."""

    async def twice():
        program = dspy.asyncify(Program())
        return await asyncio.gather(program(question="why?"), program(question="why?"))

    with dspy.context(lm=OfflineLM()):
        asyncio.run(twice())
    assert [tree(trace) for trace in dspy_traces.all()] == [[program_tree()]] * 2
