"""`dspy.Evaluate`: an evaluation is one trace, with the programs that its metric calls, and its score is unchanged."""

from __future__ import annotations

import functools

import dspy
import mlflow
import pytest
from expected import failed, ok, ordered
from offline_lm import OfflineLM
from programs import predict_tree

DEVSET = [
    dspy.Example(question=f"question {index}", answer="some answer" if index else "another").with_inputs("question")
    for index in range(4)
]
PROGRAM = "question -> answer"


def exact(example, prediction, trace=None):
    return example.answer == prediction.answer


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


def evaluate(metric, num_threads=4, **settings):
    evaluation = dspy.Evaluate(devset=DEVSET, metric=metric, num_threads=num_threads, display_progress=False)
    with dspy.context(lm=OfflineLM(), **settings):
        return evaluation(dspy.Predict(PROGRAM))


@pytest.mark.parametrize("num_threads", [1, 4])
@pytest.mark.parametrize(("metric", "judged"), METRICS.values(), ids=METRICS)
def test_an_evaluation_is_one_trace(dspy_traces, metric, judged, num_threads):
    """An evaluation is one EVALUATOR trace with a call of the program, and what the metric calls, for each example."""
    evaluate(metric, num_threads)
    expected = [ok("Evaluate", "EVALUATOR", *[predict_tree(), *judged] * len(DEVSET))]
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
    assert dspy_traces.tree() == [failed("Evaluate", "EVALUATOR", predict_tree())]


def test_an_evaluation_inside_a_program_is_in_its_trace(dspy_traces):
    """An evaluation that a module runs is a span below the module's."""

    class Evaluates(dspy.Module):
        def forward(self):
            return evaluate(exact).score

    assert Evaluates()() == 75.0
    evaluation = ok("Evaluate", "EVALUATOR", *[predict_tree()] * len(DEVSET))
    assert dspy_traces.tree() == [ok("Evaluates", "CHAIN", evaluation)]
