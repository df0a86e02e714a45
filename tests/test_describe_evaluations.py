"""What the span of `dspy.Evaluate` says, and that tracing leaves the score alone."""

from __future__ import annotations

import functools

import dspy
import pytest

DEVSET = [dspy.Example(question=str(number), answer=str(number)).with_inputs("question") for number in range(4)]


class Guess(dspy.Module):
    """Answers with the question: right for all examples."""

    def forward(self, question):
        return dspy.Prediction(answer=question)


def exact(example, prediction, trace=None, *, weight=1.0):
    return weight * (example.answer == prediction.answer)


def raises_for_one(example, prediction, trace=None):
    if example.question == "2":
        raise ValueError("the metric is broken")
    return True


class Judge:
    def __call__(self, example, prediction, trace=None):
        return dspy.Prediction(score=0.5)


def evaluate(metric=exact, program=None, **options):
    run = dspy.Evaluate(devset=DEVSET, metric=metric, num_threads=2, display_progress=False, max_errors=10)
    return run(program or Guess(), **options)


def test_evaluation(dspy_traces):
    """An evaluation shows program, metric, size, the score in per cent and each example's value in order."""
    result = evaluate()
    (span,) = dspy_traces.spans(kind="evaluate")
    assert (span.name, span.span_type) == ("Evaluate", "EVALUATOR")
    assert span.inputs == {
        "program": "Guess",
        "metric": "exact",
        "devset_size": 4,
        "num_threads": 2,
        "callback_metadata": None,
    }
    assert span.outputs == {"score": result.score, "scores": [1.0, 1.0, 1.0, 1.0]}
    assert span.get_attribute("dspy.evaluate.score") == 100.0
    assert span.get_attribute("dspy.program.fingerprint") is not None


def test_arguments_of_the_call_come_first(dspy_traces):
    """A metric, devset and number of threads given to the call are shown, not those of the object."""
    evaluate(metric=lambda *_: 1, devset=DEVSET[:1], num_threads=1, callback_metadata={"step": 3})
    (span,) = dspy_traces.spans(kind="evaluate")
    shown = {name: span.inputs[name] for name in ("devset_size", "num_threads", "callback_metadata")}
    assert shown == {"devset_size": 1, "num_threads": 1, "callback_metadata": {"step": 3}}


@pytest.mark.parametrize(
    ("metric", "name", "value"),
    [
        (functools.partial(exact, weight=0.5), "exact", 0.5),
        (functools.partial(functools.partial(exact, weight=0.5), trace=None), "exact", 0.5),
        (Judge(), "Judge", {"score": 0.5}),
        (lambda example, prediction, trace=None: True, "<lambda>", True),
    ],
)
def test_metric_names(dspy_traces, metric, name, value):
    """Any callable is a metric, known by its function or its class; all its values are there."""
    evaluate(metric)
    (span,) = dspy_traces.spans(kind="evaluate")
    assert (span.inputs["metric"], span.outputs["scores"]) == (name, [value] * 4)


@pytest.mark.parametrize("traced", [True, False])
def test_metric_that_raises(dspy_traces, traced):
    """A metric that raises for one of four examples gives the score that it gives without tracing."""
    with dspy.context(**({} if traced else {"callbacks": []})):
        result = evaluate(raises_for_one)
    assert (result.score, [value for *_, value in result.results]) == (75.0, [True, True, 0.0, True])
    assert [span.outputs["score"] for span in dspy_traces.spans(kind="evaluate")] == [75.0] * traced


def test_evaluation_without_metric_or_devset(dspy_traces):
    """An evaluation that lacks what it needs fails as it does without tracing, and says what it had."""
    with pytest.raises((TypeError, ValueError)):
        dspy.Evaluate(devset=None)(Guess())
    (span,) = dspy_traces.spans()
    assert {name: span.inputs[name] for name in ("metric", "devset_size")} == {"metric": None, "devset_size": 0}
    assert (span.outputs, span.status.status_code) == (None, "ERROR")


def test_an_evaluation_of_another_kind(dspy_traces):
    """A subclass may return what it likes."""

    class Own(dspy.Evaluate):
        __call__ = dspy.utils.with_callbacks(lambda self, program: "fine")

    Own(devset=DEVSET)(Guess())
    (span,) = dspy_traces.spans()
    assert span.outputs == "fine"
