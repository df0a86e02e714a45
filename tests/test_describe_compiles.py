"""What optimizers' spans say."""

from __future__ import annotations

import dspy
import pytest
from evaluations import exact
from programs import Program, answering

from dspy_mlflow_callbacks.describe.signatures import program_fingerprint

TRAINSET = [dspy.Example(question=str(number), answer="42").with_inputs("question") for number in range(3)]


def compile_span(traces):
    """Return the outermost compile: optimizers use other optimizers."""
    (span,) = [span for span in traces.spans(kind="compile") if span.parent_id is None]
    return span


def test_bootstrap(dspy_traces):
    """A compile shows the optimizer's parameters, the dataset's size and the program before and after."""
    student = Program()
    with dspy.context(lm=answering()):
        compiled = dspy.BootstrapFewShot(metric=exact, max_bootstrapped_demos=1).compile(student, trainset=TRAINSET)
    span = compile_span(dspy_traces)
    assert (span.name, span.span_type, span.parent_id) == ("BootstrapFewShot", "WORKFLOW", None)
    assert span.get_attribute("dspy.class") == f"{dspy.BootstrapFewShot.__module__}.BootstrapFewShot"
    assert span.inputs == {"student": "<Program>", "teacher": None, "trainset": {"size": 3}}
    params = span.get_attribute("dspy.optimizer.params")
    assert (params["metric"], params["max_bootstrapped_demos"]) == ("exact", 1)
    before, after = program_fingerprint(student), program_fingerprint(compiled)
    assert before != after
    assert span.get_attribute("dspy.program.fingerprint") == before
    assert span.get_attribute("dspy.compile.fingerprint") == after
    assert span.outputs == {"program": "Program", "fingerprint": after, "score": None, "candidate_scores": []}


def test_candidates_of_a_random_search(dspy_traces):
    """An optimizer that tries candidates shows each one's score, the best one's too, and its evaluations below."""
    optimizer = dspy.BootstrapFewShotWithRandomSearch(metric=exact, num_candidate_programs=1, num_threads=1)
    with dspy.context(lm=answering({"answer": "42"})):
        compiled = optimizer.compile(dspy.Predict("question -> answer"), trainset=TRAINSET[:1])
    span = compile_span(dspy_traces)
    assert span.outputs["candidate_scores"] == [candidate["score"] for candidate in compiled.candidate_programs]
    assert span.outputs["candidate_scores"][0] == 100.0
    assert span.outputs["fingerprint"] == program_fingerprint(compiled)
    trials = [each for each in dspy_traces.spans(kind="trial") if each.parent_id == span.span_id]
    assert [each.outputs["score"] for each in trials] == [each["score"] for each in _as_tried(compiled)]


def _as_tried(compiled):
    """Return a random search's candidates in the order in which it tried them."""
    return sorted(compiled.candidate_programs, key=lambda candidate: candidate["seed"])


class Optimizer(dspy.teleprompt.Teleprompter):
    """An optimizer as a user writes one."""

    def __init__(self, gives, **params):
        super().__init__()
        self.gives = gives
        self.__dict__.update(params)

    def compile(self, student, *, trainset=None, devset=None, mode="fast", **kwargs):
        return self.gives(student)


def scored(student):
    student.score = 0.75
    student.candidate_programs = [{"score": 0.75, "program": student}, "nonsense"]
    return student


@pytest.mark.parametrize(
    ("gives", "outputs"),
    [
        (scored, {"program": "Predict", "score": 0.75, "candidate_scores": [0.75]}),
        (lambda student: "no program", "no program"),
    ],
)
def test_what_an_optimizer_returns(dspy_traces, gives, outputs):
    """A program is told by its score and its candidates', anything else by its value."""
    Optimizer(gives).compile(dspy.Predict("question -> answer"))
    shown = compile_span(dspy_traces).outputs
    assert shown == ({**outputs, "fingerprint": shown["fingerprint"]} if isinstance(outputs, dict) else outputs)


def test_arguments_and_parameters(dspy_traces):
    """Datasets of any name show their size; parameters that hold secrets or objects are not shown."""
    optimizer = Optimizer(scored, depth=2, api_key="sk-secret", lm=dspy.LM("openai/gpt-4o", api_key="sk-secret"))
    optimizer.compile(dspy.Predict("question -> answer"), trainset=iter(TRAINSET), devset=TRAINSET, api_key="sk-secret")
    span = compile_span(dspy_traces)
    assert span.inputs == {
        "student": "<Predict>",
        "trainset": "<list_iterator object>",
        "devset": {"size": 3},
        "mode": "fast",
        "api_key": "[redacted]",
    }
    assert span.get_attribute("dspy.optimizer.params") == {"depth": 2, "api_key": "[redacted]"}


def test_failed_compile(dspy_traces):
    """An optimizer that raises has a failed span, and the caller gets the exception."""
    with pytest.raises(ZeroDivisionError):
        Optimizer(lambda student: 1 / 0).compile(dspy.Predict("question -> answer"))
    span = compile_span(dspy_traces)
    assert (span.outputs, span.status.description) == (None, "ZeroDivisionError: division by zero")
