"""`dspy.Evaluate`: each example is a trace, with the programs that its metric calls, and its score is unchanged."""

from __future__ import annotations

import functools
from contextlib import nullcontext

import dspy
import mlflow
import pytest
from evaluations import DEVSET, exact
from expected import bare, example, failed, ok, ordered
from offline_lm import OfflineLM
from programs import predict_tree

from dspy_mlflow_callbacks import MlflowCallback
from dspy_mlflow_callbacks.testing.captured import tree

PROGRAM = "question -> answer"


def with_a_judge(example, prediction, trace=None):
    dspy.Predict("answer -> verdict")(answer=prediction.answer)
    return exact(example, prediction)


def with_a_span(example, prediction, trace=None):
    with mlflow.start_span("metric", span_type="EVALUATOR"):
        dspy.Predict("answer -> verdict")(answer=prediction.answer)
    return exact(example, prediction)


def raising_once(example, prediction, trace=None):
    if not exact(example, prediction):
        raise ZeroDivisionError
    return True


class Exact:
    """A metric that is an object."""

    def __call__(self, example, prediction, trace=None):
        return exact(example, prediction)


METRICS = {
    "a function": (exact, []),
    "a partial": (functools.partial(exact, trace=None), []),
    "an object": (Exact(), []),
    "one that calls a program": (with_a_judge, [predict_tree()]),
    "one that opens a span": (with_a_span, [ok("metric", "EVALUATOR", predict_tree())]),
    "one that raises": (raising_once, []),
}


pytestmark = pytest.mark.usefixtures("nothing_left")


def nested(**options):
    """Let evaluations be one trace."""
    return dspy.context(callbacks=[MlflowCallback(evaluate="nested", **options)])


def evaluate(metric, num_threads=4, **settings):
    evaluation = dspy.Evaluate(devset=DEVSET, metric=metric, num_threads=num_threads, display_progress=False)
    with dspy.context(lm=OfflineLM(), **settings):
        return evaluation(dspy.Predict(PROGRAM))


def trees(traces):
    """Return the trees of all traces, as they began."""
    return [tree(trace) for trace in traces.all()]


def examples(metric, judged):
    """Return the trees of the examples, in no order: the first one fails where *metric* raises."""
    first = failed if metric is raising_once else ok
    trees = [first("Example", "CHAIN", predict_tree(), *judged), *[example(predict_tree(), *judged)] * 3]
    return sorted(trees, key=repr)


@pytest.mark.parametrize("num_threads", [1, 4])
@pytest.mark.parametrize(("metric", "judged"), METRICS.values(), ids=METRICS)
def test_each_example_is_a_trace(dspy_traces, metric, judged, num_threads):
    """An evaluation is an EVALUATOR trace, and for each example one with what program and metric call."""
    evaluate(metric, num_threads)
    evaluation, *rest = trees(dspy_traces)
    assert evaluation == [ok("Evaluate", "EVALUATOR")]
    assert sorted([each for (each,) in rest], key=repr) == examples(metric, judged)


@pytest.mark.parametrize("num_threads", [1, 4])
@pytest.mark.parametrize(("metric", "judged"), METRICS.values(), ids=METRICS)
def test_a_nested_evaluation_is_one_trace(dspy_traces, metric, judged, num_threads):
    """With `evaluate="nested"` an evaluation is one EVALUATOR trace, with a span for each example."""
    with nested():
        evaluate(metric, num_threads)
    expected = [ok("Evaluate", "EVALUATOR", *examples(metric, judged))]
    assert ordered(dspy_traces.tree()) == ordered(expected)


@pytest.mark.parametrize(("metric", "_"), METRICS.values(), ids=METRICS)
def test_a_score_is_the_same_without_tracing(dspy_traces, metric, _):
    """Tracing changes neither an evaluation's score nor its results, whatever the metric does."""
    traced, untraced = evaluate(metric), evaluate(metric, callbacks=[])
    assert (traced.score, untraced.score) == (75.0, 75.0)
    assert [score for *_, score in traced.results] == [score for *_, score in untraced.results]


@pytest.mark.parametrize("num_threads", [1, 4])
def test_an_evaluations_span_has_the_score(dspy_traces, num_threads):
    """An evaluation's span says the score in per cent, and each example's value in the devset's order."""
    evaluate(raising_once, num_threads)
    (span,) = dspy_traces.spans(kind="evaluate")
    scores = {"score": 75.0, "scores": [0.0, True, True, True]}
    assert {name: span.outputs[name] for name in scores} == scores


def test_too_many_errors_end_an_evaluation_as_an_error(dspy_traces):
    """An evaluation that its metric's errors cancel has an error status and raises what it always raises."""
    evaluation = dspy.Evaluate(devset=DEVSET, metric=raising_once, num_threads=1, max_errors=1, display_progress=False)
    with dspy.context(lm=OfflineLM()), pytest.raises(Exception, match="cancelled"):
        evaluation(dspy.Predict(PROGRAM))
    assert trees(dspy_traces) == [[failed("Evaluate", "EVALUATOR")], [failed("Example", "CHAIN", predict_tree())]]


@pytest.mark.parametrize("is_nested", [True, False])
def test_an_evaluation_inside_a_program_is_in_its_trace(dspy_traces, is_nested):
    """An evaluation that a module runs is a span below the module's; its examples are their own, unless nested."""

    class Evaluates(dspy.Module):
        def forward(self):
            return evaluate(exact).score

    with nested() if is_nested else nullcontext():
        assert Evaluates()() == 75.0
    below = [example(predict_tree())] * len(DEVSET)
    evaluation = bare("Evaluates", ok("Evaluate", "EVALUATOR", *below * is_nested))
    assert trees(dspy_traces) == [[evaluation], *[[each] for each in below * (not is_nested)]]
