"""Tail sampling: what an ended trace has become decides whether it is stored."""

from __future__ import annotations

import itertools
import logging
import pickle
from types import SimpleNamespace

import attrs
import dspy
import mlflow
import pytest
from openai_server import chat, choice
from opentelemetry.trace import Status, StatusCode
from programs import Echo, Program, Runs, answering, program_tree

from dspy_mlflow_callbacks import EndedTrace, MlflowCallback, Redactor, TailSampler

pytestmark = pytest.mark.engine("auto")  # the native engine has no whole traces

SPAN_IDS = itertools.count(1)
LOW, HIGH = f"tr-{'f' * 18}{'0' * 14}", f"tr-{'0' * 18}{'f' * 14}"


def span(seconds: float = 1.0, status: StatusCode = StatusCode.OK, **attributes: str):
    """Return what a tail sampler sees of a span."""
    start = 1_000_000_000_000_000_000
    end = start + int(seconds * 1e9)
    return SimpleNamespace(
        name="a span",
        context=SimpleNamespace(span_id=next(SPAN_IDS)),
        parent=None,
        start_time=start,
        end_time=end,
        status=Status(status),
        attributes={**attributes},
    )


def lm(tokens: int, cost: float):
    """Return the span of an LM call."""
    return span(
        **{"mlflow.chat.tokenUsage": f'{{"total_tokens":{tokens}}}', "mlflow.llm.cost": f'{{"total_cost":{cost}}}'}
    )


def trace(*spans, trace_id: str = HIGH) -> EndedTrace:
    """Return an ended trace of one second that went well, with *spans* below its root."""
    return EndedTrace(trace_id, [span(), *spans], {"team": "search"})


FAILED = span(status=StatusCode.ERROR)


@pytest.mark.parametrize(
    ("sampler", "ended", "is_kept"),
    [
        (TailSampler(), trace(span(status=StatusCode.UNSET)), False),
        (TailSampler(), trace(FAILED), True),
        (TailSampler(keep_errors=False), trace(FAILED), False),
        (TailSampler(min_duration_s=1), trace(), True),
        (TailSampler(min_duration_s=1.01), trace(span(2.0)), False),
        (TailSampler(min_duration_s=0), trace(), True),
        (TailSampler(min_tokens=30), trace(lm(10, 0), lm(20, 0)), True),
        (TailSampler(min_tokens=31), trace(lm(10, 0), lm(20, 0)), False),
        (TailSampler(min_cost_usd=0.75), trace(lm(0, 0.25), lm(0, 0.5)), True),
        (TailSampler(min_cost_usd=0.76), trace(lm(0, 0.25), lm(0, 0.5)), False),
        (TailSampler(keep=lambda ended: ended.tags["team"] == "search"), trace(), True),
        (TailSampler(keep=lambda ended: ended.name == "another"), trace(), False),
        (TailSampler(background_ratio=1), trace(), True),
        (TailSampler(background_ratio=0.01), trace(trace_id=LOW), True),
        (TailSampler(background_ratio=0.99), trace(trace_id=HIGH), False),
        (TailSampler(background_ratio=0), trace(trace_id=LOW), False),
    ],
)
def test_what_is_kept(sampler, ended, is_kept):
    """A trace is kept for any one of the reasons that are asked for, or as one of the background's share."""
    assert sampler.keeps(ended) is is_kept


def test_what_an_ended_trace_says():
    """A trace has its root's name and duration, and the tokens, the cost and the errors of all its spans."""
    ended = trace(lm(10, 0.25), span(), lm(20, 0.5), FAILED)
    said = (ended.name, ended.duration_s, ended.tokens, ended.cost_usd, ended.has_error)
    assert said == ("a span", 1.0, 30, 0.75, True)


def test_what_lms_do_not_report_counts_for_nothing():
    """A call without a price or without a total adds nothing."""
    ended = trace(span(**{"mlflow.chat.tokenUsage": "{}", "mlflow.llm.cost": '{"total_cost":null}'}))
    assert (ended.tokens, ended.cost_usd) == (0, 0)


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("keep_errors", "yes", TypeError, "'keep_errors' must be <class 'bool'> "),
        ("min_duration_s", "5", TypeError, "min_duration_s must be a number or None, got '5'"),
        ("min_duration_s", True, TypeError, "min_duration_s must be a number or None, got True"),
        ("min_duration_s", -0.1, ValueError, "min_duration_s must be at least 0, got -0.1"),
        ("min_cost_usd", float("nan"), ValueError, "min_cost_usd must be at least 0, got nan"),
        ("min_tokens", -1, ValueError, "min_tokens must be at least 0, got -1"),
        ("min_tokens", [], TypeError, r"min_tokens must be a number or None, got \[\]"),
        ("keep", "errors", TypeError, "keep must be a callable EndedTrace -> bool, got 'errors'"),
        ("keep", str, TypeError, "keep must be a callable EndedTrace -> bool, got <class 'str'>"),
        ("background_ratio", 1.5, ValueError, "background_ratio must be a number from 0 to 1, got 1.5"),
        ("background_ratio", None, TypeError, "background_ratio must be a number from 0 to 1, got None"),
    ],
)
def test_a_wrong_argument_raises_by_name(name, value, error, message):
    """The error says which argument, what was given and what is allowed."""
    with pytest.raises(error, match=message):
        TailSampler(**{name: value})


def test_a_tail_sampler_is_a_value():
    """It compares by its arguments, prints those that are not at their defaults, and can be pickled."""
    sampler = TailSampler(min_tokens=5)
    assert pickle.loads(pickle.dumps(sampler)) == sampler == TailSampler(min_tokens=5) != TailSampler()
    assert repr(sampler) == "TailSampler(min_tokens=5)"
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        sampler.min_tokens = 6


# --- in a program ---


def run(sampler: TailSampler, *programs, **options) -> MlflowCallback:
    """Call *programs* with a callback that has *sampler*, and return the callback."""
    callback = MlflowCallback(tail_sampler=sampler, **options)
    with dspy.context(lm=answering(), callbacks=[callback]):
        for program in programs:
            program()
    assert callback.flush()
    return callback


def fails(given):
    raise ValueError


def caught():
    """Run a program with a call in it that fails, which the program does not mind."""

    def look(given):
        try:
            Runs(fails)()
        except ValueError:
            return "went on"

    return Runs(look)()


def test_failed_traces_are_stored(dspy_traces):
    """By default traces with an error are stored whole, wherever in them it was, and others are not."""
    callback = run(TailSampler(), Echo(), caught, Echo())
    assert dspy_traces.tree() == [("Runs", "CHAIN", "OK", [("Runs", "CHAIN", "ERROR", [])])]
    stats = callback.stats()
    assert (stats.started, stats.ended, stats.stored, stats.queued) == (4, 4, 1, 0)


def test_a_tail_sampler_by_its_arguments(dspy_traces):
    """The option takes the arguments of `TailSampler` by name."""
    run({"background_ratio": 1.0}, Echo())
    assert len(dspy_traces.all()) == 1


def test_tokens_of_a_program_decide(openai_server, dspy_traces):
    """A trace is stored for the tokens that its LM calls were billed for."""
    openai_server.script(chat(choice("[[ ## answer ## ]]\n42\n\n[[ ## completed ## ]]")))
    for least in (121, 120):
        with dspy.context(callbacks=[MlflowCallback(tail_sampler=TailSampler(min_tokens=least))]):
            dspy.Predict("question -> answer").__call__(question=f"{least}?", lm=openai_server.lm("litellm"))
    assert [each.data.spans[0].inputs["question"] for each in dspy_traces.all()] == ["120?"]


def test_what_the_user_sets_meanwhile_decides(dspy_traces):
    """`keep` sees the tags that the trace has when it has ended, and content as it is before it is redacted."""
    seen = []

    def keep(ended: EndedTrace) -> bool:
        seen.append((ended.tags.get("keep"), ended.spans[0].attributes["mlflow.spanInputs"]))
        return ended.tags.get("keep") == "yes"

    def tagged(given):
        mlflow.update_current_trace(tags={"keep": "yes"})

    run(TailSampler(keep=keep), Echo(), lambda: Runs(tagged)(given="ssn 1"), payload_steps=[Redactor(patterns=["ssn"])])
    assert [text for text, _ in seen] == [None, "yes"]
    assert '"ssn 1"' in seen[1][1]
    assert [each.data.spans[0].inputs for each in dspy_traces.all()] == [{"given": "[redacted] 1"}]


def test_a_share_of_the_others_is_stored(dspy_traces):
    """Of traces that nothing else keeps the background's share is stored."""
    callback = run(TailSampler(background_ratio=0.5), *[Echo()] * 60)
    assert 10 < callback.stats().stored < 50
    assert len(dspy_traces.all()) == callback.stats().stored


@pytest.mark.warns
def test_a_keep_that_fails_keeps(dspy_traces, warned):
    """Where `keep` fails, the trace is stored, and one warning has the traceback; it is counted each time."""

    def keep(ended):
        raise KeyError("no such tag")

    callback = run(TailSampler(keep=keep), Echo(), Echo())
    assert len(dspy_traces.all()) == 2
    assert (callback.stats().stored, callback.stats().failed) == (2, 2)
    (record,) = warned.records
    assert record.getMessage().startswith("A tail sampler failed; its traces are kept: KeyError('no such tag')")
    assert (record.levelno, record.exc_info is not None) == (logging.WARNING, True)


def test_a_trace_of_ones_own_is_kept(dspy_traces):
    """Below a span of one's own a program is part of a trace that is not the tail sampler's to drop."""

    def below():
        with mlflow.start_span("around"):
            Program()(question="why?")

    run(TailSampler(), below)
    (root,) = dspy_traces.tree()
    assert (root[0], root[3]) == ("around", [program_tree()])


def test_what_a_head_sampler_drops_is_not_asked_about(dspy_traces):
    """A trace that is not sampled where it begins never comes to the tail sampler."""
    asked = []
    callback = run(TailSampler(keep=lambda ended: asked.append(ended) or True), Echo(), sampling_ratio=0.0)
    assert (asked, callback.stats().dropped) == ([], 1)
