"""The traces of an evaluation's examples: how they are found, what is in them, and that none is left open."""

from __future__ import annotations

import asyncio
import threading

import attrs
import dspy
import mlflow
import pytest
from dspy.utils.parallelizer import ParallelExecutor
from evaluations import EVALUATION, FINGERPRINT, INDEX, devset, evaluate, evaluation_of, examples_of, right, said
from expected import bare, example, failed, ok, ordered
from heard import Heard
from offline_lm import OfflineLM
from programs import Echo, Program, Runs, predict_tree, program_tree
from stored import run_of

from dspy_mlflow_callbacks import (
    CallKind,
    MlflowCallback,
    compare_versions,
    program_fingerprint,
    replay,
    suppress_tracing,
    trace_context,
)
from dspy_mlflow_callbacks.testing.captured import tree

pytestmark = pytest.mark.usefixtures("nothing_left")

ECHO = ok("Echo", "CHAIN")


def recording(**options):
    """Let a callback with *options* record."""
    return dspy.context(lm=OfflineLM(), callbacks=[MlflowCallback(**options)])


def trees(traces):
    return [tree(trace) for trace in traces.all()]


@pytest.mark.parametrize("num_threads", [1, 4])
def test_examples_are_found_by_their_tags(dspy_traces, num_threads):
    """Each example's trace has the id of its evaluation's trace, its place in the devset, and the fingerprint."""
    program = Echo()
    evaluate(right, program, num_threads=num_threads)
    root, found = evaluation_of(dspy_traces), examples_of(dspy_traces)
    assert {index: trace.data.spans[0].inputs["question"] for index, trace in found.items()} == {
        str(index): f"question {index}" for index in range(4)
    }
    tags = [(trace.info.tags[EVALUATION], trace.info.tags[FINGERPRINT]) for trace in found.values()]
    assert tags == [(root.trace_id, program_fingerprint(program))] * 4


def test_an_evaluation_names_the_traces_of_its_examples(dspy_traces):
    """The evaluation's span has its id, how many examples there are, and their traces in the devset's order."""
    evaluate(right, num_threads=4)
    root, found = evaluation_of(dspy_traces), examples_of(dspy_traces)
    names = (EVALUATION, "dspy.evaluation.traces", "dspy.evaluation.example_count")
    assert [root.get_attribute(name) for name in names] == [
        root.trace_id,
        [found[str(index)].info.trace_id for index in range(4)],
        4,
    ]


def test_what_an_examples_span_says(dspy_traces):
    """An example's root has the program's inputs, its prediction, the labels, and what the tags say."""
    with recording():
        evaluate(right, Program(), examples=devset(1))
    (trace,) = examples_of(dspy_traces).values()
    root = trace.data.spans[0]
    assert (root.inputs, root.outputs) == (
        {"question": "question 0"},
        {"reasoning": "some reasoning", "answer": "some answer"},
    )
    attributes = ("dspy.kind", "dspy.example.labels", EVALUATION, INDEX, FINGERPRINT)
    assert [root.get_attribute(name) for name in attributes] == [
        "example",
        {"answer": "yes"},
        trace.info.tags[EVALUATION],
        0,
        trace.info.tags[FINGERPRINT],
    ]


def test_a_nested_evaluation_says_the_same_in_spans(dspy_traces):
    """With `evaluate="nested"` the spans of examples say which one they are, and feedback names the span."""
    with recording(evaluate="nested"):
        evaluate(right)
    trace = dspy_traces.one()
    spans = {span.span_id: span for span in trace.data.spans if span.name == "Example"}
    assert sorted(span.get_attribute(INDEX) for span in spans.values()) == [0, 1, 2, 3]
    assert {span.get_attribute(EVALUATION) for span in spans.values()} == {trace.info.trace_id}
    assert {each.span_id for each in trace.info.assessments} == set(spans)
    assert said(trace) == [("right", True, None, None)] * 4


def judged_in_a_task(example, prediction, trace=None):
    asyncio.run(dspy.Predict("answer -> verdict").acall(answer=prediction))
    return True


def judged_in_threads(example, prediction, trace=None):
    judge = dspy.Predict("answer -> verdict")
    dspy.Parallel(num_threads=2, disable_progress_bar=True)([(judge, {"answer": prediction})] * 2)
    return True


def judged_by_a_program(example, prediction, trace=None):
    return Program()(question=prediction).answer == "some answer"


JUDGES = {
    "a task": (judged_in_a_task, [predict_tree()]),
    "threads": (judged_in_threads, [predict_tree()] * 2),
    "a program": (judged_by_a_program, [program_tree()]),
}


@pytest.mark.parametrize("num_threads", [1, 4])
@pytest.mark.parametrize(("metric", "judged"), JUDGES.values(), ids=JUDGES)
def test_what_a_metric_calls_is_in_the_examples_trace(dspy_traces, metric, judged, num_threads):
    """What a metric calls, in tasks and in threads, stands in the trace of its example beside the program's call."""
    with dspy.context(lm=OfflineLM()):
        evaluate(metric, num_threads=num_threads)
    assert [ordered(tree(trace)) for trace in examples_of(dspy_traces).values()] == [
        ordered([example(ECHO, *judged)])
    ] * 4


def test_an_evaluation_in_an_evaluation(dspy_traces):
    """A program that evaluates another one is in the example's trace; the inner examples are their own."""
    inner = Runs(lambda given: evaluate(right, examples=devset(1)).score)
    outer = [dspy.Example(given=1).with_inputs("given")]
    assert evaluate(lambda example, score: score, inner, examples=outer).score == 10_000.0
    outside, trace, inside = dspy_traces.all()
    assert [tree(each) for each in (outside, trace, inside)] == [
        [ok("Evaluate", "EVALUATOR")],
        [example(bare("Runs", ok("Evaluate", "EVALUATOR")))],
        [example(ECHO)],
    ]
    evaluated = next(span for span in trace.data.spans if span.name == "Evaluate")
    assert inside.info.tags[EVALUATION] == evaluated.get_attribute(EVALUATION) != trace.info.tags[EVALUATION]


def test_several_evaluations_in_one_trace_are_told_apart(dspy_traces):
    """Below a span of the user's own each evaluation has an id of its own, which begins with the trace's."""
    with mlflow.start_span("both") as span:
        evaluate(right, examples=devset(1))
        evaluate(right, examples=devset(1))
    ids = [trace.info.tags[EVALUATION] for trace in dspy_traces.all() if EVALUATION in trace.info.tags]
    assert len(set(ids)) == 2
    assert {each.partition("/")[0] for each in ids} == {span.trace_id}


# --- sampling and filters ---


@pytest.mark.parametrize("num_threads", [1, 4])
def test_examples_are_kept_with_their_evaluation(dspy_traces, num_threads):
    """Whatever share of traces is sampled, an evaluation that is kept has all its examples, each with its score."""
    kept = []
    with recording(sampling_ratio=0.5):
        for _ in range(12):
            evaluate(right, num_threads=num_threads)
    for trace in dspy_traces.all():
        kept.append(trace.info.tags.get(EVALUATION, trace.info.trace_id))
    assert {kept.count(each) for each in kept} <= {5}


def test_examples_that_mlflow_samples_out_have_no_feedback(dspy_traces, monkeypatch):
    """Under `MLFLOW_TRACE_SAMPLING_RATIO` a trace that is left out has no feedback, and no other has its."""
    monkeypatch.setenv("MLFLOW_TRACE_SAMPLING_RATIO", "0.5")
    mlflow.tracing.reset()
    for _ in range(4):
        evaluate(right)
    assert {tuple(said(trace)) for trace in examples_of(dspy_traces).values()} <= {(("right", True, None, None),)}
    assert [said(trace) for trace in dspy_traces.all() if EVALUATION not in trace.info.tags] <= [[]] * 4


def every_other(call):
    return None if call.kind is CallKind.EXAMPLE and call.instance.index % 2 else call


def test_a_middleware_may_leave_examples_out(dspy_traces):
    """An example that a middleware drops has no trace, nor has what it calls, and its place in the list is empty."""
    with recording(middleware=[every_other]):
        assert evaluate(right, Program()).score == 100.0
    found = examples_of(dspy_traces)
    assert {index: tree(trace) for index, trace in found.items()} == {
        index: [example(program_tree())] for index in ("0", "2")
    }
    assert evaluation_of(dspy_traces).get_attribute("dspy.evaluation.traces") == [
        found["0"].info.trace_id,
        None,
        found["2"].info.trace_id,
        None,
    ]


def test_an_example_without_a_span_is_in_its_evaluation(dspy_traces):
    """What a hidden example calls nests in the evaluation, and there is no trace that could have the score."""
    hide = lambda call: attrs.evolve(call, is_hidden=True) if call.kind is CallKind.EXAMPLE else call
    with recording(middleware=[hide]):
        evaluate(right)
    assert dspy_traces.tree() == [ok("Evaluate", "EVALUATOR", *[ECHO] * 4)]


@pytest.mark.parametrize(
    "around", [suppress_tracing, lambda: recording(sampling_ratio=0), lambda: recording(enabled=False)]
)
def test_nothing_of_an_evaluation_that_is_left_out(dspy_traces, around):
    """An evaluation that is suppressed, sampled out or switched off has no examples either."""
    with around():
        assert evaluate(right).score == 100.0
    assert dspy_traces.all() == []


def test_a_part_of_an_example_may_be_suppressed(dspy_traces):
    """What a metric runs in `suppress_tracing` is left out of the example's trace, and the score is there."""

    def quietly(example, prediction, trace=None):
        with suppress_tracing():
            return Echo()(question=prediction) == prediction

    evaluate(quietly)
    assert [(tree(trace), said(trace)) for trace in examples_of(dspy_traces).values()] == [
        ([example(ECHO)], [("quietly", True, None, None)])
    ] * 4


def test_only_evaluations(dspy_traces):
    """With evaluations alone each example is a trace of one span, which has the score."""
    with recording(events=["evaluate"]):
        evaluate(right)
    assert trees(dspy_traces) == [[ok("Evaluate", "EVALUATOR")], *[[example()]] * 4]


def test_included_evaluations(dspy_traces):
    """`include=["Evaluate"]` is the evaluation with everything below it, its examples among it."""
    with recording(include=["Evaluate"]):
        evaluate(right)
        Echo()()
    assert trees(dspy_traces) == [[ok("Evaluate", "EVALUATOR")], *[[example(ECHO)]] * 4]


# --- whose traces ---


def test_a_programs_own_callback(dspy_traces):
    """A program with a callback of its own is in the trace of the example, which the global one begins."""
    program = Program()
    program.callbacks = [MlflowCallback(tags={"by": "program"})]
    with recording(tags={"by": "all"}):
        evaluate(right, program, examples=devset(1))
    (trace,) = examples_of(dspy_traces).values()
    assert (tree(trace), said(trace)) == ([example(program_tree())], [("right", True, None, None)])


def test_a_scope_holds_for_each_example(dspy_traces):
    """Session, user and tags of a scope stand on each trace of an evaluation, and a tag there is the user's word."""
    with trace_context(session_id="nightly", user="ada", tags={"team": "search", EVALUATION: "nightly-7"}):
        evaluate(right)
    for trace in dspy_traces.all():
        assert (trace.info.tags["team"], trace.info.tags[EVALUATION]) == ("search", "nightly-7")
        assert trace.info.trace_metadata["mlflow.trace.session"] == "nightly"
        assert trace.info.trace_metadata["mlflow.trace.user"] == "ada"


def test_examples_are_of_the_calling_threads_run(dspy_traces):
    """Traces of an evaluation are linked to the run that is active where it begins."""
    with mlflow.start_run() as run:
        evaluate(right, num_threads=4)
    assert [run_of(trace) for trace in dspy_traces.all()] == [run.info.run_id] * 5


def test_other_callbacks_hear_what_they_always_hear(dspy_traces):
    """A callback of somebody else's hears of no example."""
    heard = Heard()
    with dspy.context(callbacks=[MlflowCallback(), heard]):
        evaluate(right)
    assert heard.kinds == {"evaluate": 1, "module": 4}


def test_an_example_can_be_replayed(dspy_traces):
    """The trace of an example replays the program's call, and not what the metric called."""
    with recording():
        evaluate(judged_in_a_task, Program(), examples=devset(1))
    (trace,) = examples_of(dspy_traces).values()
    replayed = replay(trace, Program())
    assert (replayed.is_equal, replayed.outputs.answer) == (True, "some answer")


def test_versions_are_compared_by_their_examples(dspy_traces):
    """Of two versions that were evaluated, the examples are compared by fingerprint, and not the evaluations."""
    versions = [dspy.Predict("question -> answer"), dspy.Predict("question -> answer, reason")]
    with recording():
        for version in versions:
            evaluate(right, version)
    dspy_traces.all()
    assert compare_versions(*map(program_fingerprint, versions), resamples=0).matched == 4


# --- devsets ---


def test_an_example_that_stands_there_twice(dspy_traces):
    """One object that stands in a devset several times has a trace for each place."""
    evaluate(right, examples=devset(1) * 3, num_threads=3)
    assert sorted(examples_of(dspy_traces)) == ["0", "1", "2"]


def test_a_devset_of_another_kind(dspy_traces):
    """Examples of a devset that makes them anew each time have no known place, and all else."""

    class Lazy:
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return devset(2)[index]

    assert evaluate(right, examples=Lazy()).score == 100.0
    found = [trace for trace in dspy_traces.all() if EVALUATION in trace.info.tags]
    assert [(INDEX in trace.info.tags, tree(trace), said(trace)) for trace in found] == [
        (False, [example(ECHO)], [("right", True, None, None)])
    ] * 2


def test_an_empty_devset(dspy_traces):
    """A devset of no examples is refused as without tracing, and the evaluation's trace says so."""
    with pytest.raises((ValueError, ZeroDivisionError)):  # by the version of DSPy
        evaluate(right, examples=[])
    assert dspy_traces.tree() == [failed("Evaluate", "EVALUATOR")]


def test_examples_without_inputs(dspy_traces):
    """Examples that were given no inputs fail as without tracing; their traces say why."""
    assert evaluate(right, examples=[dspy.Example(question="why?")]).score == 0.0
    (trace,) = examples_of(dspy_traces).values()
    ((name, value, rationale, (error, message)),) = said(trace)
    assert (tree(trace), trace.data.spans[0].inputs) == ([failed("Example", "CHAIN")], {})
    assert (name, value, rationale, error) == ("right", None, None, "ValueError")
    assert "with_inputs" in message


def test_a_devset_of_anything(dspy_traces):
    """What is no example fails as without tracing, and is shown as it is."""
    assert evaluate(right, examples=["why?"]).score == 0.0
    (trace,) = examples_of(dspy_traces).values()
    root = trace.data.spans[0]
    assert (root.inputs, root.get_attribute("dspy.example.labels"), root.status.status_code) == ({}, "why?", "ERROR")


def test_what_is_no_program(dspy_traces):
    """A function may be evaluated: its examples' traces have no fingerprint."""
    assert evaluate(right, lambda question: question).score == 100.0
    (first, *_) = examples_of(dspy_traces).values()
    assert (tree(first), FINGERPRINT in first.info.tags) == ([example()], False)


# --- ends ---


def join_workers():
    """Wait for DSPy's threads, which an evaluation that has ended does not."""
    for thread in threading.enumerate():
        if thread.name.startswith("ThreadPoolExecutor"):
            thread.join(timeout=60)


@pytest.mark.parametrize("num_threads", [1, 2])
def test_an_interrupted_evaluation(dspy_traces, num_threads):
    """Ctrl-C in a metric ends the spans of example and evaluation as failed, and says nothing of the example."""

    def interrupted(example, prediction, trace=None):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(interrupted, examples=devset(1), num_threads=num_threads)
    (trace,) = examples_of(dspy_traces).values()
    assert (tree(trace), said(trace)) == ([failed("Example", "CHAIN", ECHO)], [])


def test_an_example_that_outlives_its_evaluation(dspy_traces):
    """An example that is still running when its evaluation is cancelled becomes a whole trace when it ends."""
    begun, cancelled = threading.Event(), threading.Event()

    def slow_or_broken(example, prediction, trace=None):
        if example.question == "question 0":
            begun.set()
            assert cancelled.wait(timeout=60)
            return 0.5
        assert begun.wait(timeout=60)
        raise ZeroDivisionError

    with pytest.raises(Exception, match="cancelled"):
        evaluate(slow_or_broken, examples=devset(2), num_threads=2, max_errors=1)
    cancelled.set()
    join_workers()
    found = examples_of(dspy_traces)
    assert tree(found["0"]) == [example(ECHO)]
    assert said(found["0"]) == [("slow_or_broken", 0.5, None, None)]
    assert tree(found["1"]) == [failed("Example", "CHAIN", ECHO)]


def test_an_example_that_is_run_again(dspy_traces):
    """An example that DSPy runs once more, since it takes long, has a trace for each time, with the same place."""
    second, runs = threading.Event(), []

    def work(each):
        runs.append(each)
        if len(runs) == 1:
            assert second.wait(timeout=60)
        second.set()
        return Echo()(question=each.question), 1.0

    class Impatient(dspy.Evaluate):
        @dspy.utils.with_callbacks
        def __call__(self, program):
            executor = ParallelExecutor(num_threads=2, disable_progress_bar=True, timeout=0.001, compare_results=True)
            return executor.execute(work, self.devset)

    assert Impatient(devset=devset(1))(Echo()) == [("question 0", 1.0)]
    join_workers()
    found = [trace for trace in dspy_traces.all() if EVALUATION in trace.info.tags]
    assert [(trace.info.tags[INDEX], tree(trace)) for trace in found] == [("0", [example(ECHO)])] * 2


def test_an_evaluation_of_another_kind(dspy_traces):
    """A subclass may do something else with its examples: what is no score is no feedback."""

    class Own(dspy.Evaluate):
        @dspy.utils.with_callbacks
        def __call__(self, program):
            executor = ParallelExecutor(num_threads=2, disable_progress_bar=True)
            return executor.execute(lambda each: program(question=each.question), self.devset)

    assert Own(devset=devset(2))(Echo()) == ["question 0", "question 1"]
    found = examples_of(dspy_traces)
    assert [(trace.data.spans[0].outputs, said(trace)) for trace in found.values()] == [
        ("question 0", []),
        ("question 1", []),
    ]


class Quiet(dspy.Evaluate):
    """Works on its examples where nothing is recorded."""

    @dspy.utils.with_callbacks
    def __call__(self, program):
        with suppress_tracing():
            executor = ParallelExecutor(num_threads=1, disable_progress_bar=True)
            return executor.execute(lambda each: (program(**each.inputs()), 1.0), self.devset)


def test_examples_may_be_suppressed(dspy_traces):
    """Examples that are worked on in `suppress_tracing` have no traces, and the evaluation has its own."""
    assert Quiet(devset=devset(1))(Echo()) == [("question 0", 1.0)]
    assert dspy_traces.tree() == [ok("Evaluate", "EVALUATOR")]


class BrokenEnd:
    """A middleware that fails when an example ends."""

    def __call__(self, call):
        return call

    def on_end(self, end):
        if isinstance(end.outputs, tuple):
            raise RuntimeError("broken")
        return end


@pytest.mark.warns
def test_an_end_that_fails_costs_what_it_would_say(dspy_traces, warned):
    """A middleware that fails at an example's end costs prediction and feedback, neither the trace nor the score."""
    with recording(middleware=[BrokenEnd()]):
        assert evaluate(right, examples=devset(1)).score == 100.0
    (trace,) = examples_of(dspy_traces).values()
    assert (tree(trace), trace.data.spans[0].outputs, said(trace)) == ([example(ECHO)], None, [])
    assert "A middleware failed" in warned.messages[0]


@pytest.mark.warns
@pytest.mark.parametrize("kind", [CallKind.EXAMPLE, CallKind.MODULE])
def test_an_error_of_ours_costs_spans_alone(dspy_traces, warned, kind):
    """A middleware that fails costs the example's span, not its score; what it calls nests where that would stand."""

    def fails(call):
        if call.kind is kind:
            raise RuntimeError("broken")
        return call

    with recording(middleware=[fails]):
        assert evaluate(right).score == 100.0
    below = [ECHO] * 4 if kind is CallKind.EXAMPLE else []
    alone = [[example()]] * 4 if kind is CallKind.MODULE else []
    assert trees(dspy_traces) == [[ok("Evaluate", "EVALUATOR", *below)], *alone]
    (message,) = warned.messages
    assert "A middleware failed" in message
