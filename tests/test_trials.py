"""What is known of a trial while it runs: its scores, its examples, whether it is on all of them."""

from __future__ import annotations

import math

import attrs
import dspy
import orjson
import pytest
from offline_lm import OfflineLM
from optimizers import TRAINSET, avatar, copro, exact, student
from programs import Echo

from dspy_mlflow_callbacks import CallKind, MlflowCallback, optimizer_runs
from dspy_mlflow_callbacks.optimizing import CompileSummary
from dspy_mlflow_callbacks.optimizing.candidates import candidate_of
from dspy_mlflow_callbacks.optimizing.spending import Amount
from dspy_mlflow_callbacks.optimizing.trials import MAX_EXAMPLE_TRACES


def summary(**inputs):
    return CompileSummary("a call", inputs, None)


def said(trial, name):
    return trial.closing(trial.score).get(name)


SCORES = {
    "nothing": ([], None),
    "numbers": ([1, 0.5], 75.0),
    "booleans": ([True, False, False], 33.33),
    "what is none": (["good", None, 1], 100.0),
}


@pytest.mark.parametrize(("values", "score"), SCORES.values(), ids=SCORES)
def test_the_score_of_examples_is_their_mean_in_per_cent(values, score):
    """A trial that no evaluation is scores as one would; what is no number does not count."""
    trial = summary().new_trial(student())
    for value in values:
        trial.scored(value)
    assert trial.score == score


def test_a_score_that_is_no_number_stays_so():
    """A metric's NaN is recorded as it is."""
    trial = summary().new_trial(student())
    trial.scored(math.nan)
    assert math.isnan(trial.score)


def test_a_trial_names_some_traces_of_its_examples():
    """A trial lists a bounded number of its examples' traces."""
    trial = summary().new_trial(student())
    for number in range(MAX_EXAMPLE_TRACES + 1):
        trial.record(f"tr-{number}")
    listed = said(trial, "dspy.evaluation.traces")
    assert (listed.count("tr-"), f"tr-{MAX_EXAMPLE_TRACES}" in listed) == (MAX_EXAMPLE_TRACES, False)


BATCHES = {
    "DSPy says all": ({"trainset": TRAINSET}, 2, {"metric_key": "eval_full"}, "full"),
    "DSPy says some": ({"trainset": TRAINSET}, 10, {"metric_key": "eval_minibatch"}, "minibatch"),
    "DSPy logs no part": ({"valset": TRAINSET[:3]}, 3, {"disable_logging": True}, "minibatch"),
    "another key": ({"valset": TRAINSET[:3]}, 3, {"metric_key": "mine"}, "full"),
    "the whole valset": ({"trainset": TRAINSET, "valset": TRAINSET[:3]}, 3, None, "full"),
    "a part of the valset": ({"valset": TRAINSET[:3]}, 2, None, "minibatch"),
    "no valset": ({"trainset": TRAINSET}, 5, None, "full"),
    "what has no size": ({"valset": iter(TRAINSET)}, 5, None, "full"),
}


@pytest.mark.parametrize(("inputs", "size", "metadata", "batch"), BATCHES.values(), ids=BATCHES)
def test_whether_an_evaluation_is_on_all_examples(inputs, size, metadata, batch):
    """An evaluation is on all examples if DSPy says so, or by the sizes of the datasets."""
    assert summary(**inputs).evaluates(student(), TRAINSET[:size], metadata).batch == batch


def test_smaller_devsets_are_minibatches():
    """Without a valset, an evaluation on fewer examples than another one of the same compile is on a part."""
    compile_ = summary(trainset=TRAINSET)
    batches = [compile_.evaluates(student(), TRAINSET[:size], None).batch for size in (8, 4, 8)]
    assert batches == ["full", "minibatch", "full"]


def test_thresholds_are_part_of_a_candidate():
    """What DSPy fits beside instructions, such as thresholds, is a line of a trial's instructions."""
    program = dspy.Predict("question -> answer")
    before = candidate_of(program)
    program.fields = {"answer": {"threshold": 0.5}}
    (line,) = set(candidate_of(program).instructions) - set(before.instructions)
    assert line == 'thresholds: {"answer":{"threshold":0.5}}'


def test_proposing_inside_a_compile_counts_to_the_one_around():
    """What an optimizer inside another one spends on proposing is spent on proposing there too."""
    outer = summary()
    inner = CompileSummary("another call", {}, outer)
    inner.spent(Amount({"total_tokens": 3}, 0.5, is_recorded=False))
    spent = {"trials": {"lm_calls": 0, "tokens": {}, "cost": None}, "proposing": PROPOSED}
    assert orjson.loads(outer.closing()["dspy.compile.spent"]) == spent
    assert orjson.loads(outer.closing()["mlflow.chat.tokenUsage"]) == {"total_tokens": 3}
    assert "mlflow.chat.tokenUsage" not in inner.closing()


PROPOSED = {"lm_calls": 1, "tokens": {"total_tokens": 3}, "cost": 0.5}


def test_what_is_no_program_of_dspys_is_tried_too(dspy_traces):
    """An optimizer may evaluate any callable: its trial has a score, and neither instructions nor a fingerprint."""

    class Optimizer(dspy.teleprompt.Teleprompter):
        def compile(self, student, *, trainset):
            evaluate = dspy.Evaluate(devset=trainset, metric=exact, num_threads=1)
            evaluate(max_answer)
            return student

    def max_answer(question):
        return dspy.Prediction(answer="some answer")

    with dspy.context(callbacks=[MlflowCallback(evaluate="off")]):
        Optimizer().compile("no program", trainset=TRAINSET)
    (run,) = optimizer_runs(dspy_traces.one())
    (trial,) = run.trials
    assert (trial.score, trial.fingerprint, trial.instructions, trial.demos) == (50.0, None, "", {})


def test_an_lm_that_raises_is_no_cost(dspy_traces):
    """A call of an LM that raised before anybody answered is not counted."""

    class Raising(OfflineLM):
        def _use_example(self, messages):
            raise ConnectionError

    with dspy.context(lm=Raising(), callbacks=[MlflowCallback(evaluate="off")]):
        dspy.BootstrapFewShot(metric=exact, max_labeled_demos=0).compile(student(), trainset=TRAINSET[:2])
    (run,) = optimizer_runs(dspy_traces.one())
    assert [(trial.examples, trial.lm_calls, trial.score) for trial in run.trials] == [(2, 0, 0.0)]


def test_an_avatars_threads_are_heard_where_only_they_are_asked_for(dspy_traces):
    """The threads of `AvatarOptimizer`, which see no `dspy.context`, are heard by the callback of one."""
    with dspy.context(lm=OfflineLM(), callbacks=[MlflowCallback(evaluate="off")]):
        avatar()
    (run,) = optimizer_runs(dspy_traces.one())
    assert [(trial.examples, trial.lm_calls) for trial in run.trials] == [(10, 10)] * 2


@pytest.mark.parametrize(("return_outputs", "result"), [(True, (TRAINSET[0], None, 0)), (False, 0)])
def test_an_avatars_example_alone(dspy_traces, return_outputs, result):
    """An example that is run by hand, outside a compile, gives what it gives."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dspy, "TypedPredictor", dspy.Predict, raising=False)
        optimizer = dspy.AvatarOptimizer(metric=exact)
    MlflowCallback()  # whose wrapper it goes through
    assert optimizer.process_example(Echo(), TRAINSET[0], return_outputs) == result  # a text has no answer


@pytest.mark.warns
def test_a_score_that_cannot_be_read_costs_nothing(dspy_traces, warned):
    """Where what a metric returns breaks when it is read, the trial has no score, and the optimizer goes on."""

    class Odd(int):
        def __float__(self):
            raise ZeroDivisionError

    optimizer = dspy.BootstrapFewShot(metric=lambda *_: Odd(1), max_bootstrapped_demos=1, max_labeled_demos=0)
    with dspy.context(lm=OfflineLM(), callbacks=[MlflowCallback(evaluate="off")]):
        assert optimizer.compile(student(), trainset=TRAINSET).predict.demos
    (run,) = optimizer_runs(dspy_traces.one())
    assert [(trial.examples, trial.score) for trial in run.trials] == [(1, None)]
    assert warned.messages == ["The score of an optimizer's example is not known."]


def failing_at_candidates(call):
    if call.kind is CallKind.MODULE and call.begins_trace:
        raise KeyError
    return call


EXAMPLES = {
    "hidden": ({"events": ["compile"]}, 0),
    "dropped": ({"exclude": ["ChainOfThought"]}, 0),
    "recorded": ({}, 2),
}


@pytest.mark.parametrize(("options", "traces"), EXAMPLES.values(), ids=EXAMPLES)
def test_examples_of_candidates_are_filtered_as_other_calls(dspy_traces, nothing_open, options, traces):
    """What filters leave out of examples that an optimizer runs itself is not recorded; the trial is."""
    optimizer = dspy.BootstrapFewShot(metric=exact, max_bootstrapped_demos=1, max_labeled_demos=0)
    with dspy.context(lm=OfflineLM(), callbacks=[MlflowCallback(**options)]):
        optimizer.compile(student(), trainset=TRAINSET)
    runs = [run for trace in dspy_traces.all() for run in optimizer_runs(trace)]
    assert [(len(run.trials), len(run.trials[0].example_traces)) for run in runs] == [(1, traces)]
    assert len(dspy_traces.all()) == 1 + traces


@pytest.mark.warns
def test_a_middleware_that_fails_at_an_example_costs_the_example(dspy_traces, nothing_open, warned):
    """Where a middleware fails at a candidate's call its example is not recorded, and the trial and its cost are."""
    optimizer = dspy.BootstrapFewShot(metric=exact, max_bootstrapped_demos=1, max_labeled_demos=0)
    callback = MlflowCallback(middleware=[failing_at_candidates])
    with dspy.context(lm=OfflineLM(), callbacks=[callback]):
        optimizer.compile(student(), trainset=TRAINSET)
    (run,) = optimizer_runs(dspy_traces.one())
    assert run.spent["trials"]["lm_calls"] + run.spent["proposing"]["lm_calls"] == 2
    assert callback.stats().failed == 2
    assert len(warned.messages) == 1


def hiding_trials(call):
    return attrs.evolve(call, is_hidden=True) if call.kind is CallKind.TRIAL else call


def test_a_hidden_trial_counts_to_its_compile(dspy_traces, nothing_open):
    """What the trials of an optimizer's evaluations cost is known of the compile also where they have no spans."""
    with dspy.context(lm=OfflineLM(), callbacks=[MlflowCallback(evaluate="off", middleware=[hiding_trials])]):
        copro()
    (run,) = optimizer_runs(dspy_traces.one())
    assert (run.trials, run.spent["trials"]["lm_calls"]) == ((), 20)
