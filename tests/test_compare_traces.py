"""Two traces side by side: constructed pairs with known differences."""

from __future__ import annotations

import dspy
import mlflow
import pytest
from compared import Answers, priced, score, traced
from offline_lm import OfflineLM
from programs import Program
from stored import tracking_to

from dspy_mlflow_callbacks import CheckFailedError, ReplayError, compare_traces, replay

SWAPPED = {"added": "removed", "removed": "added", "same": "same", "moved": "moved"}


@pytest.fixture
def pair(dspy_traces):
    """Return a function that compares the traces of two programs."""

    def compare(a, b, lm_a=None, lm_b=None):
        (first,) = traced(dspy_traces, a, lm=lm_a)
        (second,) = traced(dspy_traces, b, lm=lm_b)
        return compare_traces(first, second)

    return compare


def kinds(comparison):
    """Return the names of the modules that changed their place, by what became of them."""
    return [(each.kind, each.name) for each in comparison.spans if each.kind != "same" and "Answers" in each.name]


def test_equal_traces(pair):
    """Two calls of one program differ in nothing but time; all checks pass."""
    comparison = pair(Program(), Program())
    assert {each.kind for each in comparison.spans} == {"same"}
    assert not any(each.prompt or each.inputs or each.outputs for each in comparison.spans)
    assert comparison.check(max_latency_increase=1e9).made == ("max_latency_increase", "allow_structure_change")
    assert "the same; 6 spans" in comparison.to_markdown()


def test_a_changed_instruction(pair):
    """The prompt's diff says the line that changed, at the LM's span, and no structure changed."""
    comparison = pair(Answers("one", instructions="Be brief."), Answers("one", instructions="Be kind."))
    (lm,) = [each for each in comparison.spans if each.prompt]
    assert lm.name == "dummy"
    assert [line for line in lm.prompt if "Be" in line] == ["-        Be brief.", "+        Be kind."]
    assert comparison.check().failed == ()


def test_a_changed_output(pair):
    """Outputs that differ are shown where they arise, and at each span that hands them on."""
    comparison = pair(Answers("one"), Answers("one"), OfflineLM(answer="no"), OfflineLM(answer="yes"))
    changed = [each for each in comparison.spans if each.outputs]
    assert [each.name for each in changed] == ["Answers", "Answers.one", "dummy", "ChatAdapter.parse"]
    assert '- "answer": "no"' in changed[0].outputs
    assert '+ "answer": "yes"' in changed[0].outputs


def test_added_and_removed_spans(pair):
    """A step that only one program has is added or removed, with all below it; the check says so."""
    comparison = pair(Answers("one", "two"), Answers("two", "three"))
    assert kinds(comparison) == [("removed", "Answers.one"), ("added", "Answers.three")]
    assert sum(each.kind == "added" for each in comparison.spans) == 4
    with pytest.raises(CheckFailedError, match=r"the structure changed \(8 times\)") as caught:
        comparison.check()
    assert [each.check for each in caught.value.checks.failed] == ["allow_structure_change"]
    assert comparison.check(allow_structure_change=True).made == ()
    assert "Structure: 4 added, 4 removed; 5 spans in their place." in comparison.to_markdown()


def test_moved_spans(pair):
    """A step that runs in another place is moved; what is below it is compared with what it was."""
    comparison = pair(Answers("one", "two"), Answers("two", "one"))
    assert kinds(comparison) in ([("moved", "Answers.one")], [("moved", "Answers.two")])
    assert len(comparison.spans) == 9


def test_repeated_names_are_aligned(dspy_traces):
    """Of three calls of one step, the one with another question is what the other trace has not."""

    class Asks(dspy.Module):
        def __init__(self, *questions):
            super().__init__()
            self.questions, self.step = questions, dspy.Predict("question -> answer")

        def forward(self, question):
            return [self.step(question=each).answer for each in self.questions]

    (first,) = traced(dspy_traces, Asks("a", "b", "c"))
    (second,) = traced(dspy_traces, Asks("a", "c"))
    there, back = compare_traces(first, second), compare_traces(second, first)
    assert [each.kind for each in there.spans if each.name == "Asks.step"] == ["same", "removed", "same"]
    assert not any(each.inputs for each in there.spans[1:])
    assert sorted(each.kind for each in back.spans if each.name == "Asks.step") == ["added", "same", "same"]


@pytest.mark.parametrize("steps", [("one", "two", "three"), ("two",), ("three", "one"), ("four",)])
def test_symmetry(dspy_traces, steps):
    """The other way round the same spans are aligned: what was added is removed, and numbers change sides."""
    (first,) = traced(dspy_traces, Answers("one", "two"))
    (second,) = traced(dspy_traces, Answers(*steps), lm=OfflineLM(answer="other"))
    there, back = compare_traces(first, second), compare_traces(second, first)

    def facts(spans, kind=lambda each: each, turn=lambda pair: pair):
        return sorted((kind(each.kind), each.name, each.depth, turn(each.latency_ms)) for each in spans if each.name)

    assert sorted(map(str, facts(there.spans))) == sorted(
        map(str, facts(back.spans, SWAPPED.get, lambda pair: pair[::-1]))
    )
    assert (there.a, there.b) == (back.b, back.a)


def test_another_root_and_another_model(pair):
    """A renamed program and another model are not another structure."""

    class Renamed(Program):
        pass

    other = OfflineLM()
    other.model = "other"
    comparison = pair(Program(), Renamed(), None, other)
    assert {each.kind for each in comparison.spans} == {"same"}
    assert [each.name for each in comparison.spans][:3] == ["Renamed", "Renamed.generate", "Renamed.generate.predict"]


def test_tokens_and_cost(openai_server, dspy_traces):
    """Tokens and US dollars stand at the LM's span and in sum, and the cost has a limit."""
    lm = priced(openai_server, 20, 40)
    (first,) = traced(dspy_traces, Answers("one"), lm=lm)
    (second,) = traced(dspy_traces, Answers("one"), lm=lm)
    comparison = compare_traces(first, second)
    (lm_span,) = [each for each in comparison.spans if each.tokens != (0, 0)]
    assert lm_span.tokens == (comparison.a.tokens, comparison.b.tokens) == (120, 140)
    assert lm_span.cost_usd == pytest.approx((comparison.a.cost_usd, comparison.b.cost_usd))
    assert comparison.a.cost_usd < comparison.b.cost_usd
    with pytest.raises(CheckFailedError, match=r"the sum of costs rose by 44\.4%"):
        comparison.check(max_cost_increase=0.1)
    assert comparison.check(max_cost_increase=0.5).failed == ()


def test_a_failed_call(dspy_traces):
    """A status that differs stands in the spans and in sum."""

    class Fails(Answers):
        def forward(self, question):
            super().forward(question)
            raise ZeroDivisionError

    (first,) = traced(dspy_traces, Answers("one"))
    with pytest.raises(ZeroDivisionError):
        traced(dspy_traces, Fails("one"))
    comparison = compare_traces(first, dspy_traces.all()[-1])
    assert comparison.spans[0].status == ("OK", "ERROR")
    assert "OK → ERROR" in comparison.to_markdown()


def test_scores(dspy_traces):
    """Feedback on the traces are their scores: numbers, booleans, the mean of several; texts are none."""
    first, second = traced(dspy_traces, Answers("one"), "why?", "why?")
    score(first, 0.5)
    for value in (True, 0.5):
        score(second, value)
    score(second, "good", "opinion")
    mlflow.log_expectation(trace_id=second.info.trace_id, name="expected", value=1)
    comparison = compare_traces(first.info.trace_id, second.info.trace_id)
    assert comparison.scores == ({"quality": 0.5}, {"quality": 0.75})
    assert "| quality | 0.5 | 0.75 |" in comparison.to_markdown()
    assert comparison.check(min_score=0.7).made == ("min_score", "allow_structure_change")
    with pytest.raises(CheckFailedError, match=r"the score quality is 0\.75, at least 0\.9 is asked for"):
        comparison.check(min_score={"quality": 0.9})


def test_spans_of_another_tracer(dspy_traces):
    """Traces that this package did not make are compared too."""
    for answer in (1, 2):
        with mlflow.start_span("work") as span:
            span.set_outputs(answer)
    comparison = compare_traces(*dspy_traces.all())
    assert comparison.spans[0].outputs == ("--- baseline", "+++ candidate", "@@ -1 +1 @@", "-1", "+2")


def test_an_unknown_trace(dspy_traces):
    """An id that the store does not have is refused: which, where, and what to do."""
    with pytest.raises(ValueError, match=r"there is no trace 'tr-none' in the store sqlite:.*mlflow.set_tracking_uri"):
        compare_traces("tr-none", "tr-none")


def test_a_password_in_the_address_of_the_store(httpserver, monkeypatch):
    """The error has the store's address without the credentials in it."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    httpserver.expect_request("/").respond_with_data("")  # it knows no trace
    with tracking_to(f"http://ada:hunter2@127.0.0.1:{httpserver.port}"):
        for read, error in (
            (lambda: compare_traces("tr-1", "tr-2"), ValueError),
            (lambda: replay("tr-1"), ReplayError),
        ):
            with pytest.raises(error, match=f"http://127.0.0.1:{httpserver.port}") as refused:
                read()
            assert "hunter2" not in str(refused.value)


def test_no_trace_at_all():
    """What is neither a trace nor an id is refused."""
    with pytest.raises(TypeError, match=r"a trace must be an mlflow.entities.Trace or its id, got 7"):
        compare_traces(7, 7)


def test_half_a_trace(dspy_traces):
    """A trace that has lost its root is refused, and the error says what to do."""
    (trace,) = traced(dspy_traces, Answers("one"))
    trace.data.spans[:] = [span for span in trace.data.spans if span.parent_id]
    with pytest.raises(ValueError, match=r"is not whole \(0 roots, 4 spans, state OK\): wait until its program has"):
        compare_traces(trace, trace)


LIMITS = [
    ({"max_cost_increase": "much"}, TypeError, "max_cost_increase must be a share such as 0.1 for 10%"),
    ({"max_latency_increase": -1}, ValueError, "max_latency_increase must be a share .*, got -1"),
    ({"max_latency_increase": float("nan")}, ValueError, "got nan"),
    ({"max_latency_increase": True}, TypeError, "got True"),
    ({"allow_structure_change": "no"}, TypeError, "allow_structure_change must be True or False, got 'no'"),
    ({"min_score": "high"}, TypeError, "min_score must be a number, got 'high'"),
    ({"min_score": 0.5}, ValueError, "no score of any name, it has none. Log feedback"),
    ({"min_score": {"quality": 0.5}}, ValueError, "no score of quality"),
    ({"max_price": 1}, TypeError, "max_price"),
]


@pytest.mark.parametrize(("limits", "error", "message"), LIMITS, ids=lambda value: str(value)[:40])
def test_wrong_limits(pair, limits, error, message):
    """A limit that is wrong, or of something unknown, is an error and no failed check."""
    with pytest.raises(error, match=message):
        pair(Answers("one"), Answers("one")).check(**limits)


def test_a_cost_that_is_not_known(dspy_traces):
    """A limit on a cost that nobody knows cannot be checked, and the error says so."""
    for _ in range(2):
        with mlflow.start_span("work"):
            pass
    with pytest.raises(ValueError, match="the sum of costs is not known on both sides"):
        compare_traces(*dspy_traces.all()).check(max_cost_increase=0)
