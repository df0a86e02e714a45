"""`compile="summary"`: a WORKFLOW trace with the trials of an optimizer, and what they and the rest cost."""

from __future__ import annotations

import attrs
import dspy
import pytest
from evaluations import raising_at
from expected import failed, ok
from heard import Heard
from offline_lm import OfflineLM
from openai_server import BACKENDS, chat, choice
from optimizers import OPTIMIZERS, TRAINSET, compiled, copro, exact, simba, student
from threads import at_once

from dspy_mlflow_callbacks import CallKind, MlflowCallback, attach, optimizer_runs
from dspy_mlflow_callbacks.testing.captured import tree

LABELED = ("LabeledFewShot", [], [])


def bootstrap(*trials):
    """Return a compile of `BootstrapFewShot` with *trials*, and the one of `LabeledFewShot` that it makes."""
    return ("BootstrapFewShot", list(trials), [LABELED])


FULL = ("full", 10)

# What each of the optimizers tries: on all examples or on some, on how many; and the compiles inside it.
TRIED = {
    "LabeledFewShot": LABELED,
    "BootstrapFewShot": bootstrap(("minibatch", 2)),
    "BootstrapFewShotWithRandomSearch": (
        "BootstrapFewShotWithRandomSearch",
        [FULL] * 4,
        [LABELED, bootstrap(("minibatch", 2)), bootstrap(("minibatch", 1))],
    ),
    "BootstrapFewShotWithOptuna": ("BootstrapFewShotWithOptuna", [FULL] * 2, [bootstrap(("minibatch", 2))]),
    "MIPROv2": ("MIPROv2", [FULL] * 3, [LABELED]),
    "COPRO": ("COPRO", [FULL] * 2, []),
    "SIMBA": ("SIMBA", [("minibatch", 2)] * 3 + [FULL] * 2, []),
    "GEPA": ("GEPA", [FULL, *[("minibatch", 3)] * 8], []),
    "InferRules": ("InferRules", [("minibatch", 2), FULL], [LABELED]),
    "BetterTogether": ("BetterTogether", [FULL] * 3, [LABELED, bootstrap(("minibatch", 2))]),
    "Ensemble": ("Ensemble", [], []),
    "KNNFewShot": ("KNNFewShot", [], []),
    "AvatarOptimizer": ("AvatarOptimizer", [FULL] * 2, []),
}


def workflow(traces):
    """Return the only trace that is no example's."""
    (trace,) = [trace for trace in traces.all() if "dspy.compile.trial" not in trace.info.tags]
    return trace


def the_run(traces):
    (run,) = optimizer_runs(workflow(traces))
    return run


def tried(run):
    trials = [(trial.batch, trial.examples) for trial in run.trials]
    return (run.optimizer, trials, [tried(inner) for inner in run.inner])


def scores_of(run):
    own = [trial.score for trial in run.trials]
    return [*own, *(score for inner in run.inner for score in scores_of(inner))]


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_compile_is_its_trials(dspy_traces, nothing_open, request, optimizer):
    """Of each optimizer the trace has the trials, numbered and scored, and counts every LM call of its threads."""
    heard = Heard()
    compiled(optimizer, [MlflowCallback(), heard])
    run = the_run(dspy_traces)
    assert tried(run) == TRIED[request.node.callspec.id]
    assert [trial.index for trial in run.trials] == list(range(1, len(run.trials) + 1))
    assert all(isinstance(score, float) for score in scores_of(run))
    assert run.spent["trials"]["lm_calls"] + run.spent["proposing"]["lm_calls"] == heard.kinds["lm"]
    spans = workflow(dspy_traces).data.spans
    assert {span.get_attribute("dspy.kind") for span in spans} <= {"compile", "trial"}
    assert {(span.span_type, span.status.status_code.value) for span in spans} <= {
        ("WORKFLOW", "OK"),
        ("EVALUATOR", "OK"),
    }


def trial(number, *children):
    return ok(f"Trial {number}", "EVALUATOR", *children)


def run(optimizer, **options):
    """Compile with a callback of these options."""
    callback = MlflowCallback(**options)
    compiled(optimizer, [callback])
    return callback


def the_trials(traces):
    return the_run(traces).trials


INSTRUCTIONS = """\
predict: question -> reasoning, answer
some proposed_instruction
question: Question: ${question}
reasoning: Reasoning: ${reasoning}
answer: some proposed_prefix_for_output_field ${answer}"""

CHANGE = """\
--- trial 1
+++ trial 2
@@ -1,5 +1,5 @@
 predict: question -> reasoning, answer
-some proposed_instruction
+Given the fields `question`, produce the fields `answer`.
 question: Question: ${question}
 reasoning: Reasoning: ${reasoning}
-answer: some proposed_prefix_for_output_field ${answer}
+answer: Answer: ${answer}"""


def test_a_trial_says_how_its_instructions_differ(dspy_traces):
    """The first trial has the candidate's instructions and fields as they are, each further one a unified diff."""
    run(copro)
    assert [each.instructions for each in the_trials(dspy_traces)] == [INSTRUCTIONS, CHANGE]
    assert [each.demos for each in the_trials(dspy_traces)] == [{}, {}]


def demos_in_turn():
    """Compile with an optimizer that evaluates a program with two demos, then with one other, then without any."""

    class InTurn(dspy.teleprompt.Teleprompter):
        def compile(self, student, *, trainset):
            evaluate = dspy.Evaluate(devset=trainset, metric=exact, num_threads=1)
            for demos in (trainset[:2], trainset[1:2], []):
                student.predict.demos = demos
                evaluate(student)
            return student

    return InTurn().compile(student(), trainset=TRAINSET[:4])


def test_a_trial_says_how_its_demos_differ(dspy_traces):
    """Each trial says how many demos a predictor has, and which came and went since the trial before."""
    run(demos_in_turn)
    first, second = (dict(example.items()) for example in TRAINSET[:2])
    assert [each.demos for each in the_trials(dspy_traces)] == [
        {"predict": {"count": 2, "added": [first, second]}},
        {"predict": {"count": 1, "removed": [first]}},
        {"predict": {"count": 0, "removed": [second]}},
    ]
    assert [each.instructions for each in the_trials(dspy_traces)][1:] == ["", ""]


def test_demos_are_redacted_by_their_fields(dspy_traces):
    """Fields that are not to be stored are not stored in demos of trials either."""
    run(demos_in_turn, redact_fields=["question"])
    added = the_trials(dspy_traces)[0].demos["predict"]["added"]
    assert [demo["question"] for demo in added] == ["[redacted]", "[redacted]"]


def test_demos_are_left_out_with_other_content(dspy_traces):
    """Where inputs are not captured, trials have no demos, and instructions and scores all the same."""
    run(demos_in_turn, capture_inputs=False)
    assert [(each.demos, each.score) for each in the_trials(dspy_traces)] == [({}, 50.0)] * 3
    assert the_trials(dspy_traces)[0].instructions


@pytest.mark.parametrize("optimizer", [copro, simba], ids=["evaluations", "calls"])
def test_examples_of_trials_are_traces(dspy_traces, optimizer):
    """Each example that a candidate runs on is a trace of its own: its trial names it, and its tags the trial."""
    run(optimizer)
    workflow_id = workflow(dspy_traces).info.trace_id
    tagged = {}
    for trace in dspy_traces.all():
        tags = trace.info.tags
        if "dspy.compile.trial" in tags:
            assert tags["dspy.compile.id"] == workflow_id
            assert {"adapter_format", "lm"} < {span.get_attribute("dspy.kind") for span in trace.data.spans}
            tagged.setdefault(int(tags["dspy.compile.trial"]), set()).add(
                (trace.info.trace_id, tags["dspy.program.fingerprint"])
            )
    assert tagged == {
        each.index: {(trace_id, each.fingerprint) for trace_id in each.example_traces}
        for each in the_trials(dspy_traces)
    }
    assert all(tagged.values())


@pytest.mark.parametrize("evaluate", ["nested", "off"])
@pytest.mark.parametrize("optimizer", [copro, simba], ids=["evaluations", "calls"])
def test_examples_of_trials_are_traces_only_if_linked(dspy_traces, optimizer, evaluate):
    """With other values of `evaluate` a compile in summary is one trace, with the same trials and scores."""
    run(optimizer, evaluate=evaluate)
    the_only_one = dspy_traces.one()
    (alone,) = optimizer_runs(the_only_one)
    run(optimizer)
    (linked,) = [
        each for trace in dspy_traces.all() for each in optimizer_runs(trace) if each.trace_id != alone.trace_id
    ]
    known = [(each.fingerprint, each.score, each.lm_calls) for each in alone.trials]
    assert known == [(each.fingerprint, each.score, each.lm_calls) for each in linked.trials]
    assert [each.example_traces for each in alone.trials] == [()] * len(alone.trials)


CALL = {"input_tokens": 100, "output_tokens": 20, "total_tokens": 120}
PRICE = (100 * 0.15 + 20 * 0.60) / 1_000_000  # of gpt-4o-mini, as LiteLLM knows it


def times(calls):
    return {
        "lm_calls": calls,
        "tokens": {name: count * calls for name, count in CALL.items()},
        "cost": pytest.approx(PRICE * calls),
    }


@pytest.fixture
def billed(openai_server):
    """Return the LM of a provider that answers every prompt as `OfflineLM` does, and bills it."""
    offline = OfflineLM()

    def answer(body):
        counts = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
        return chat(choice(offline._use_example(body["messages"])), counts=counts)

    openai_server.script(answer)
    return openai_server.lm(BACKENDS[0])


@pytest.mark.parametrize(("evaluate", "unrecorded"), [("linked", 1), ("off", 9)])
def test_what_a_compile_costs_is_said_by_kind(dspy_traces, billed, evaluate, unrecorded):
    """Trials say what they cost, the compile what trials and proposing cost; MLflow's sums count each call once."""
    optimizer = dspy.COPRO(metric=exact, breadth=2, depth=1)
    with dspy.context(lm=billed, callbacks=[MlflowCallback(evaluate=evaluate)]):
        optimizer.compile(student(), trainset=TRAINSET[:4], eval_kwargs={"num_threads": 2})
    run = the_run(dspy_traces)
    assert run.spent == {"trials": times(8), "proposing": times(1)}
    for each in run.trials:
        assert {"lm_calls": each.lm_calls, "tokens": each.tokens, "cost": each.cost_usd} == times(4)
    counted = [trace.info.token_usage["total_tokens"] for trace in dspy_traces.all()]
    assert sum(counted) == 9 * CALL["total_tokens"]
    assert workflow(dspy_traces).info.token_usage["total_tokens"] == unrecorded * CALL["total_tokens"]
    assert workflow(dspy_traces).info.cost["total_cost"] == pytest.approx(unrecorded * PRICE)


def test_compiles_in_two_threads_do_not_mix(dspy_traces, nothing_open):
    """Optimizers that run side by side have a trace each, with their own trials and calls."""

    def compile_one(optimizer):
        def run():
            with dspy.context(lm=OfflineLM(), callbacks=[callback]):
                optimizer()

        return run

    callback = MlflowCallback(evaluate="off")
    at_once(*map(compile_one, (copro, simba, copro)))
    runs = [each for trace in dspy_traces.all() for each in optimizer_runs(trace)]
    assert sorted(map(tried, runs)) == sorted(map(TRIED.get, ("COPRO", "SIMBA", "COPRO")))
    assert [each.spent["trials"]["lm_calls"] for each in runs if each.optimizer == "COPRO"] == [20, 20]


def test_a_compile_inside_a_compile_has_its_own_trials(dspy_traces):
    """The trials of an optimizer that another one calls are below its span, and count to both."""
    run(OPTIMIZERS["BetterTogether"], evaluate="off")
    assert dspy_traces.tree() == [
        ok(
            "BetterTogether",
            "WORKFLOW",
            trial(1),
            ok("LabeledFewShot", "WORKFLOW"),
            trial(2),
            ok("BootstrapFewShot", "WORKFLOW", ok("LabeledFewShot", "WORKFLOW"), trial(1)),
            trial(3),
        )
    ]
    outer = the_run(dspy_traces)
    assert outer.spent["trials"]["lm_calls"] == 30 + outer.inner[1].spent["trials"]["lm_calls"]


def test_a_compile_inside_a_program_is_summed_up_there(dspy_traces):
    """A program that compiles when it is called has the compile and its trials in its trace, and its own calls."""
    program = OPTIMIZERS["KNNFewShot"]
    with dspy.context(lm=OfflineLM(), callbacks=[MlflowCallback(evaluate="off")]):
        program()(question="why?")
    compiling, called = dspy_traces.all()
    assert tree(compiling) == [ok("KNNFewShot", "WORKFLOW")]
    ((_, _, _, below),) = tree(called)
    names = [(name, [inner for inner, *_ in children]) for name, _, _, children in below]
    assert ("BootstrapFewShot", ["LabeledFewShot", "Trial 1"]) in names
    assert names[-1] == ("ChainOfThought", ["ChainOfThought.predict"])


class Trying(dspy.teleprompt.Teleprompter):
    """An optimizer as a user writes one: it runs candidates itself, and asks an LM what they are worth."""

    def __init__(self, metric):
        super().__init__()
        self.metric = metric

    def compile(self, student, *, trainset):
        for instructions in ("One.", "Two."):
            proposed = dspy.Predict("basic -> proposed")(basic=instructions).proposed
            student.predict.signature = student.predict.signature.with_instructions(f"{instructions} {proposed}")
            for example in trainset:
                self.metric(example, student(**example.inputs()))
        return student


def test_an_optimizer_of_the_users_own_has_trials(dspy_traces, nothing_open):
    """Calls of one candidate in a row are a trial; what else an optimizer calls is not, and counts as proposing."""
    optimizer = Trying(exact)
    run(lambda: optimizer.compile(student(), trainset=TRAINSET[:3]), evaluate="off")
    (this,) = optimizer_runs(dspy_traces.one())
    assert [(each.examples, each.score, each.lm_calls) for each in this.trials] == [(3, None, 3)] * 2
    assert this.spent["proposing"]["lm_calls"] == 2
    assert "+Two. some proposed" in this.trials[1].instructions


def test_a_metric_that_asks_an_lm_is_part_of_the_trial(dspy_traces):
    """What a metric costs counts to the trial, also where an optimizer calls it without an evaluation."""
    judge = dspy.Predict("answer -> verdict")

    def judged(example, prediction, trace=None):
        return bool(judge(answer=prediction.answer).verdict)

    optimizer = dspy.BootstrapFewShot(metric=judged, max_bootstrapped_demos=3, max_labeled_demos=0)
    run(lambda: optimizer.compile(student(), trainset=TRAINSET), evaluate="off")
    (this,) = optimizer_runs(dspy_traces.one())
    assert [(each.examples, each.score, each.lm_calls) for each in this.trials] == [(3, 100.0, 6)]
    assert this.spent["proposing"]["lm_calls"] == 0


def test_a_program_with_a_callback_of_its_own_is_tried_too(dspy_traces, nothing_open):
    """A student to which a callback is attached has its trials in the compile's trace, and its examples by its own."""
    optimizer = dspy.BootstrapFewShot(metric=exact, max_bootstrapped_demos=1, max_labeled_demos=0)
    own = attach(student(), MlflowCallback(tags={"who": "own"}))
    run(lambda: optimizer.compile(own, trainset=TRAINSET))
    (trial,) = the_trials(dspy_traces)
    assert (trial.examples, trial.lm_calls, len(trial.example_traces)) == (2, 2, 2)
    examples = [trace.info.tags for trace in dspy_traces.all() if trace.info.trace_id in trial.example_traces]
    assert [tags.get("who") for tags in examples] == ["own", "own"]


def test_a_callback_on_an_optimizer_sums_it_up(dspy_traces):
    """A callback on an optimizer governs how its compile is recorded."""
    optimizer = dspy.COPRO(metric=exact, breadth=2, depth=1)
    optimizer.callbacks = [MlflowCallback(evaluate="off")]
    run(lambda: optimizer.compile(student(), trainset=TRAINSET, eval_kwargs={"num_threads": 1}), compile="full")
    assert dspy_traces.tree() == [ok("COPRO", "WORKFLOW", trial(1), trial(2))]


KINDS = {
    "compiles": ({"events": ["compile"]}, [trial(1), trial(2), trial(3), trial(4), trial(5)]),
    "no trials": ({"exclude": ["Trial *"]}, []),
    "hidden trials": ({"middleware": [lambda call: attrs.evolve(call, is_hidden=call.kind is CallKind.TRIAL)]}, []),
}


@pytest.mark.parametrize(("options", "trials"), KINDS.values(), ids=KINDS)
def test_trials_are_filtered_as_a_part_of_compiles(dspy_traces, nothing_open, options, trials):
    """Trials get spans where compiles do; a middleware may leave them out, and the compile still counts them."""
    run(simba, evaluate="off", **options)
    assert dspy_traces.tree() == [ok("SIMBA", "WORKFLOW", *trials)]
    assert the_run(dspy_traces).spent["trials"]["lm_calls"] == 28


def test_a_compile_that_is_not_recorded_has_no_summary(dspy_traces, nothing_open):
    """Where optimizers are filtered out, what they run is recorded as if there was no optimizer."""
    optimizer = dspy.BootstrapFewShot(metric=exact, max_bootstrapped_demos=1, max_labeled_demos=0)
    run(lambda: optimizer.compile(student(), trainset=TRAINSET[1:]), events=["module"])
    assert [tree(trace) for trace in dspy_traces.all()] == [
        [ok("ChainOfThought", "CHAIN", ok("ChainOfThought.predict", "CHAIN"))]
    ]


INTERRUPTED = {
    "Ctrl-C in an evaluation": (
        lambda metric: dspy.COPRO(metric=metric, breadth=2, depth=1),
        {"eval_kwargs": {"num_threads": 1}},
        KeyboardInterrupt(),
        [trial(1), failed("Trial 2", "EVALUATOR")],
    ),
    "Ctrl-C in an optimizer's own call": (
        lambda metric: dspy.BootstrapFewShot(metric=metric, max_bootstrapped_demos=20, max_labeled_demos=0),
        {},
        KeyboardInterrupt(),
        [failed("Trial 1", "EVALUATOR")],
    ),
    "max_errors": (
        lambda metric: dspy.BootstrapFewShot(metric, max_bootstrapped_demos=20, max_labeled_demos=0, max_errors=1),
        {},
        ZeroDivisionError(),
        [failed("Trial 1", "EVALUATOR")],
    ),
}


@pytest.mark.parametrize(("optimizer", "arguments", "error", "trials"), INTERRUPTED.values(), ids=INTERRUPTED)
@pytest.mark.usefixtures("nothing_left")
def test_an_interrupted_compile_has_what_was_reached(dspy_traces, optimizer, arguments, error, trials):
    """A compile that is interrupted ends its spans as errors, with the trials and the cost so far."""
    at = 15 if arguments else 5
    made = optimizer(raising_at(at, error))
    with dspy.context(lm=OfflineLM(), callbacks=[MlflowCallback(evaluate="off")]), pytest.raises(type(error)):
        made.compile(student(), trainset=TRAINSET, **arguments)
    ((name, span_type, status, below),) = dspy_traces.tree()
    assert (name, span_type, status) == (type(made).__name__, "WORKFLOW", "ERROR")
    assert below == trials
    (this,) = optimizer_runs(dspy_traces.one())
    assert this.spent["trials"]["lm_calls"] == at
    assert [each.status for each in this.trials] == [status for _, _, status, _ in trials]
