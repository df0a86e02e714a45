"""What a metric says of an example becomes MLflow feedback on the example's trace, whatever it is."""

from __future__ import annotations

import functools
import math

import dspy
import mlflow
import pytest
from evaluations import devset, evaluate, evaluation_of, examples_of, right, said
from mlflow.tracing.trace_manager import InMemoryTraceManager
from offline_lm import OfflineLM
from programs import Program

from dspy_mlflow_callbacks import MlflowCallback

pytestmark = pytest.mark.usefixtures("nothing_left")


class Strict:
    """A metric that is an object, and has another one as its method."""

    def __call__(self, example, prediction, trace=None):
        return prediction == example.question

    def grade(self, example, prediction, trace=None):
        return 0.5


def right_by(example, prediction, trace=None, *, weight):
    return weight


METRICS = {
    "a function": (right, "right", True),
    "a partial": (functools.partial(right_by, weight=0.25), "right_by", 0.25),
    "an object": (Strict(), "Strict", True),
    "a method": (Strict().grade, "grade", 0.5),
    "a lambda": (lambda example, prediction: 1, "<lambda>", 1),
    "a class": (lambda example, prediction: bool(prediction), "<lambda>", True),
}


@pytest.mark.parametrize("evaluated", ["linked", "nested"])
@pytest.mark.parametrize(("metric", "name", "value"), METRICS.values(), ids=METRICS)
def test_any_metric(dspy_traces, metric, name, value, evaluated):
    """The feedback has the metric's name and value, whatever kind of callable it is, on each example."""
    with dspy.context(callbacks=[MlflowCallback(evaluate=evaluated)]):
        evaluate(metric)
    found = [each for trace in dspy_traces.all() for each in said(trace)]
    assert found == [(name, value, None, None)] * 4


class Odd:
    """A value that cannot be shown, and counts as a score."""

    def __radd__(self, other):
        return other

    def __repr__(self):
        return "an odd value"


SCORES = {
    "true": (True, True, None),
    "a number": (2, 2, None),
    "a share": (0.25, 0.25, None),
    "not a number": (math.nan, "nan", None),
    "infinite": (math.inf, "inf", None),
    "a very large number": (10**30, str(10**30), None),
    "with feedback": (dspy.Prediction(score=0.5, feedback="look again"), 0.5, "look again"),
    "without feedback": (dspy.Prediction(score=False), False, None),
    "with other feedback": (dspy.Prediction(score=1.0, feedback={"tone": "rude"}), 1.0, '{"tone":"rude"}'),
    "an object": (Odd(), "an odd value", None),
}


@pytest.mark.parametrize("evaluated", ["linked", "nested"])
@pytest.mark.parametrize(("score", "value", "rationale"), SCORES.values(), ids=SCORES)
def test_any_score(dspy_traces, score, value, rationale, evaluated):
    """Booleans, numbers, predictions with a score, and odd values are stored as they are, or as text."""
    with dspy.context(callbacks=[MlflowCallback(evaluate=evaluated)]):
        evaluate(lambda example, prediction: score, num_threads=1, examples=devset(1))
    ((*_, of_the_example),) = [said(trace) for trace in dspy_traces.all() if trace.info.assessments]
    assert of_the_example == ("<lambda>", value, rationale, None)


NO_SCORES = {
    "a text": ("good", "good"),
    "a list": ([True, 0.5], [True, 0.5]),
    "a dict": ({"score": 1}, {"score": 1}),
    "nothing": (None, None),
    "another prediction": (dspy.Prediction(verdict="good"), {"verdict": "good"}),
}


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize(("score", "value"), NO_SCORES.values(), ids=NO_SCORES)
def test_what_is_no_score(dspy_traces, score, value, num_threads):
    """What DSPy cannot add up is recorded as it is; the evaluation fails as it does without tracing."""
    errors = []
    for callbacks in (dspy.settings.callbacks, []):
        with dspy.context(callbacks=callbacks), pytest.raises(Exception, match=r".+") as raised:
            evaluate(lambda example, prediction: score, examples=devset(1), num_threads=num_threads)
        errors.append((raised.type, str(raised.value)))
    assert errors[0] == errors[1]
    assert [said(trace) for trace in examples_of(dspy_traces).values()] == [[("<lambda>", value, None, None)]]
    assert evaluation_of(dspy_traces).status.status_code == "ERROR"


async def in_time(example, prediction, trace=None):
    return True


def test_an_async_metric(dspy_traces):
    """DSPy does not wait for an async metric, and neither does tracing: the coroutine is no score."""
    begun = []

    @functools.wraps(in_time)
    def kept(*args):
        begun.append(in_time(*args))
        return begun[-1]

    with pytest.raises(TypeError, match="coroutine"):
        evaluate(kept, examples=devset(1), num_threads=1)
    begun[0].close()  # or Python would warn of it, in another test perhaps
    ((name, value, *_),) = said(examples_of(dspy_traces)["0"])
    assert (name, "coroutine" in value) == ("in_time", True)


def broken(example, prediction, trace=None):
    raise ZeroDivisionError("no tokens")


@pytest.mark.parametrize("num_threads", [1, 4])
def test_a_metric_that_raises(dspy_traces, num_threads):
    """An exception of the metric's is feedback with an error in place of a value."""
    assert evaluate(broken, num_threads=num_threads).score == 0.0
    assert [said(trace) for trace in examples_of(dspy_traces).values()] == [
        [("broken", None, None, ("ZeroDivisionError", "no tokens"))]
    ] * 4
    (feedback, *_) = examples_of(dspy_traces)["0"].info.assessments
    assert "raise ZeroDivisionError" in feedback.error.stack_trace


def test_a_program_that_raises(dspy_traces):
    """An example on which the program fails has feedback with the error: the metric was not asked."""

    class Fails(dspy.Module):
        def forward(self, question):
            raise ValueError(question)

    assert evaluate(right, Fails(), examples=devset(1)).score == 0.0
    assert said(examples_of(dspy_traces)["0"]) == [("right", None, None, ("ValueError", "question 0"))]


def test_it_can_be_searched(dspy_traces):
    """MLflow finds traces by evaluation and score."""
    evaluate(lambda example, prediction: example.question == "question 1")
    dspy_traces.all()
    root = evaluation_of(dspy_traces)
    found = mlflow.search_traces(
        locations=[dspy_traces.experiment_id],
        filter_string=f"tag.`dspy.evaluation.id` = '{root.trace_id}' AND feedback.`<lambda>` = 'true'",
        return_type="list",
    )
    assert [trace.info.tags["dspy.evaluation.example_index"] for trace in found] == ["1"]


SECRET = "ghp_" + "a1B2" * 9  # of GitHub's shape


def test_secrets_are_taken_out(dspy_traces):
    """The payload steps run on what a metric says: texts, rationales, messages and stack traces."""

    def telling(example, prediction, trace=None):
        if example.question == "question 1":
            raise ValueError(SECRET)
        return dspy.Prediction(score=SECRET, feedback=f"it says {SECRET}")

    with pytest.raises(ValueError, match="could not convert"):
        evaluate(telling, num_threads=1)
    found = examples_of(dspy_traces)
    assert said(found["0"]) == [("telling", "[redacted]", "it says [redacted]", None)]
    evaluate(lambda example, prediction: telling(example, prediction) if example.question == "question 1" else 0)
    errors = [each for trace in dspy_traces.all() for each in trace.info.assessments if each.error]
    assert [each.error.error_message for each in errors] == ["[redacted]"]
    assert SECRET not in errors[0].error.stack_trace


def test_without_outputs_it_says_numbers_only(dspy_traces):
    """With `capture_outputs=False` scores are stored, and no words, which may quote what the program returned."""

    def wordy(example, prediction, trace=None):
        if example.question == "question 1":
            raise ValueError(prediction)
        return dspy.Prediction(score=0.5, feedback=f"it says {prediction}")

    with dspy.context(callbacks=[MlflowCallback(capture_outputs=False)]):
        evaluate(wordy, examples=devset(2))
    found = examples_of(dspy_traces)
    assert said(found["0"]) == [("wordy", 0.5, None, None)]
    assert said(found["1"]) == [("wordy", None, None, ("ValueError", None))]


@pytest.mark.parametrize("engine", ["recorded", "native"], indirect=True)
def test_who_has_said_it_already(dspy_traces, engine):
    """Where something else has put a metric's value on the trace by the same name, it is not there twice."""

    def logging(example, prediction, trace=None):
        mlflow.log_feedback(trace_id=mlflow.get_active_trace_id(), name="logging", value=0.75)
        return True

    evaluate(logging)
    assert [said(trace) for trace in examples_of(dspy_traces).values()] == [[("logging", 0.75, None, None)]] * 4


@pytest.mark.parametrize("engine", ["recorded", "native"], indirect=True)
def test_what_a_user_logs_is_kept(dspy_traces, engine):
    """Feedback, tags and attributes that a metric puts on its trace stand beside the metric's own."""

    def logging(example, prediction, trace=None):
        mlflow.log_feedback(trace_id=mlflow.get_active_trace_id(), name="length", value=len(prediction))
        mlflow.update_current_trace(tags={"seen": "yes"})
        return True

    evaluate(logging, examples=devset(1))
    (trace,) = examples_of(dspy_traces).values()
    assert sorted(said(trace)) == [("length", 10, None, None), ("logging", True, None, None)]
    assert trace.info.tags["seen"] == "yes"


@pytest.mark.engine("native")
def test_a_trace_that_mlflow_has_lost(dspy_traces):
    """Where MLflow puts a trace out of its memory while it runs, there is none, and the evaluation goes on."""

    def forgets(example, prediction, trace=None):
        InMemoryTraceManager.reset()
        return True

    assert evaluate(forgets, examples=devset(1), num_threads=1).score == 100.0
    assert [trace for trace in dspy_traces.all() if trace.info.assessments] == []


@pytest.mark.parametrize("redact", [True, False])
def test_without_payload_steps(dspy_traces, redact):
    """Where nothing is redacted, words are stored as they are."""
    said_of_all = dspy.Prediction(score=1, feedback=f"it says {SECRET}")
    with dspy.context(callbacks=[MlflowCallback(redact=redact)]):
        evaluate(lambda example, prediction: said_of_all, examples=devset(1))
    ((*_, rationale, _),) = said(examples_of(dspy_traces)["0"])
    assert rationale == f"it says {'[redacted]' if redact else SECRET}"


def test_below_a_span_of_the_users(dspy_traces):
    """A nested evaluation in the user's own trace has its feedback there, on the examples' spans."""
    with dspy.context(callbacks=[MlflowCallback(evaluate="nested")]), mlflow.start_span("mine"):
        evaluate(right, examples=devset(2))
    trace = dspy_traces.one()
    spans = {span.span_id for span in trace.data.spans if span.name == "Example"}
    assert {each.span_id for each in trace.info.assessments} == spans
    assert said(trace) == [("right", True, None, None)] * 2


@pytest.mark.parametrize("evaluated", ["linked", "nested"])
def test_retries(dspy_traces, evaluated):
    """An LM call that is tried again, and an adapter that falls back, are in the example's trace with its one score."""
    answers = iter(["no JSON", "still none"])
    lm = OfflineLM(answer=lambda prompt: next(answers, "fine"))
    with dspy.context(lm=lm, callbacks=[MlflowCallback(evaluate=evaluated)]):
        assert evaluate(right, Program(), examples=devset(1)).score == 100.0
    assert [each for trace in dspy_traces.all() for each in said(trace)] == [("right", True, None, None)]
