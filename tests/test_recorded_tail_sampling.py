"""Tail sampling: what a trace has become decides whether it is stored."""

from __future__ import annotations

import json

import attrs
import dspy
import mlflow
import pytest
from offline_lm import OfflineLM
from programs import Echo, Program, Runs, program_tree
from stored import stored_bytes

from dspy_mlflow_callbacks import CallKind, EndedTrace, MlflowCallback, TailSampler
from dspy_mlflow_callbacks.config import TracingConfig

pytestmark = [pytest.mark.engine("auto"), pytest.mark.usefixtures("nothing_open")]


@pytest.fixture(autouse=True)
def _lm():
    with dspy.context(lm=OfflineLM()):
        yield


def fails(_=None):
    raise ValueError("no")


def failing():
    with pytest.raises(ValueError, match="no"):
        Runs(fails)()


def failing_within():
    """Fail in a call, and go on."""

    def forward(_):
        failing()

    Runs(forward)()


class Billing:
    """Says of each LM call that it took a hundred tokens for two cents."""

    def __init__(self):
        self.lm_calls = set()

    def __call__(self, call):
        if call.kind is CallKind.LM:
            self.lm_calls.add(call.call_id)
        return call

    def on_end(self, end):
        if end.call_id not in self.lm_calls:
            return end
        counts = {"input_tokens": 60, "output_tokens": 40, "total_tokens": 100}
        costs = {"input_cost": 0.01, "output_cost": 0.01, "total_cost": 0.02}
        return attrs.evolve(end, attributes={"mlflow.chat.tokenUsage": counts, "mlflow.llm.cost": costs})


def run(call, sampler, **options):
    """Return the callback with which *call* was made."""
    callback = MlflowCallback(tail_sampler=sampler, **options)
    with dspy.context(callbacks=[callback]):
        call()
    assert callback.flush()
    return callback


def answered():
    Program()(question="why?")


ROWS = {
    "nothing asked for": (TailSampler(), answered, False),
    "an error": (TailSampler(), failing, True),
    "an error inside": (TailSampler(), failing_within, True),
    "errors not kept": (TailSampler(keep_errors=False), failing, False),
    "duration reached": (TailSampler(min_duration_s=0), answered, True),
    "duration not reached": (TailSampler(min_duration_s=3600), answered, False),
    "tokens reached": (TailSampler(min_tokens=100), answered, True),
    "tokens not reached": (TailSampler(min_tokens=101), answered, False),
    "cost reached": (TailSampler(min_cost_usd=0.02), answered, True),
    "cost not reached": (TailSampler(min_cost_usd=0.021), answered, False),
    "kept by a callable": (TailSampler(keep=lambda trace: trace.name == "Program"), answered, True),
    "not kept by a callable": (TailSampler(keep=lambda trace: trace.name == "Other"), answered, False),
    "kept by its tags": (TailSampler(keep=lambda trace: trace.tags.get("team") == "search"), answered, True),
    "in the background": (TailSampler(background_ratio=1), answered, True),
}


@pytest.mark.parametrize(("sampler", "call", "is_kept"), ROWS.values(), ids=ROWS)
def test_what_is_kept(dspy_traces, sampler, call, is_kept):
    """A trace is stored, whole, if any of the reasons to keep it holds, and else counted as dropped."""
    callback = run(call, sampler, middleware=[Billing()], tags={"team": "search"})
    traces, stats = dspy_traces.all(), callback.stats()
    assert len(traces) == stats.stored == (1 if is_kept else 0)
    assert (stats.dropped, stats.lost, stats.failed) == (0 if is_kept else 1, 0, 0)
    if is_kept and call is answered:
        assert dspy_traces.tree() == [program_tree()]


def test_all_processes_keep_the_same_share(dspy_traces, monkeypatch):
    """Of two thousand traces a fifth is kept within five standard deviations, by their ids, and all are counted."""
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "true")
    mlflow.tracing.reset()
    seen = []
    sampler = TailSampler(keep=lambda trace: bool(seen.append(trace.trace_id)), background_ratio=0.2)
    program = Echo()
    callback = run(lambda: [program() for _ in range(2000)], TailSampler(keep=sampler.keeps))
    stats = callback.stats()
    assert stats.stored + stats.dropped == len(seen) == 2000
    assert 400 - 5 * 18 < stats.stored < 400 + 5 * 18
    again = [EndedTrace(trace_id, [], {}) for trace_id in seen]
    decides = TailSampler(keep_errors=False, background_ratio=0.2)
    assert sum(map(decides.keeps, again)) == stats.stored


@pytest.mark.warns
def test_a_callable_that_raises_keeps_the_trace(dspy_traces, warned):
    """Where *keep* fails the traces are kept and the failures counted; one warning says so, with the traceback."""

    def keep(trace):
        raise ZeroDivisionError("oops")

    program = Echo()
    callback = run(lambda: [program(), program()], TailSampler(keep=keep))
    stats = callback.stats()
    assert (stats.stored, stats.failed, stats.dropped, stats.lost) == (2, 2, 0, 0)
    assert len(dspy_traces.all()) == 2
    (record,) = warned.records
    assert record.getMessage().startswith("A tail sampler failed; its traces are kept: ")
    assert "ZeroDivisionError('oops')" in record.getMessage()
    assert record.exc_info


@pytest.mark.warns
def test_usage_that_is_none_keeps_the_trace(dspy_traces, warned):
    """A trace whose usage somebody has overwritten with nonsense is kept, too."""

    def forward(_):
        mlflow.get_current_active_span().set_attribute("mlflow.chat.tokenUsage", [1])

    run(Runs(forward), TailSampler(min_tokens=1))
    assert len(dspy_traces.all()) == 1
    assert len(warned.messages) == 1


def test_what_a_client_says_of_an_lms_call_is_not_counted_twice(dspy_traces):
    """Tokens that a span below an LM's says again are counted once, as MLflow counts them."""
    seen = []

    def forward(_):
        counts = {"input_tokens": 60, "output_tokens": 40, "total_tokens": 100}
        with mlflow.start_span("lm") as lm, mlflow.start_span("between"), mlflow.start_span("client") as client:
            lm.set_attribute("mlflow.chat.tokenUsage", counts)
            client.set_attribute("mlflow.chat.tokenUsage", counts)
        with mlflow.start_span("another") as another:
            another.set_attribute("mlflow.chat.tokenUsage", {"input_tokens": 5, "output_tokens": 5, "total_tokens": 10})

    run(Runs(forward), TailSampler(keep=lambda trace: seen.append((trace.tokens, trace.cost_usd)) or True))
    assert seen == [(110, 0)]
    assert dspy_traces.one().info.token_usage["total_tokens"] == 110


def test_it_sees_what_redaction_takes_out(dspy_traces):
    """A tail sampler sees the content as it was; what is stored is redacted."""
    seen = []

    def keep(trace):
        seen.append(trace.spans[0].attributes["mlflow.spanInputs"])
        return True

    run(lambda: Runs(lambda given: None)({"api_key": "sk-verysecret"}), TailSampler(keep=keep))
    assert "sk-verysecret" in seen[0]
    assert b"sk-verysecret" not in stored_bytes(dspy_traces)


def test_it_sees_the_users_spans(dspy_traces):
    """The user's own spans in a trace are before the tail sampler, the root first."""
    names = []

    def forward(_):
        with mlflow.start_span("mine"):
            pass

    run(Runs(forward), TailSampler(keep=lambda trace: names.extend(span.name for span in trace.spans)))
    assert names == ["Runs", "mine"]


def test_a_program_in_somebody_elses_trace_is_kept(dspy_traces):
    """A program below the user's own span is a part of a trace that the tail sampler does not decide about."""

    def below():
        with mlflow.start_span("mine"):
            Echo()()

    callback = run(below, TailSampler())
    assert len(dspy_traces.one().data.spans) == 2
    assert (callback.stats().stored, callback.stats().dropped) == (1, 0)


def test_what_the_user_said_of_the_trace_is_dropped_with_it(dspy_traces):
    """A trace that was looked at and is dropped leaves nothing in MLflow's memory and nothing in the store."""

    def forward(_):
        mlflow.update_current_trace(metadata={"mine": "yes"}, tags={"a": "1"})

    callback = run(Runs(forward), TailSampler())
    assert dspy_traces.all() == []
    assert callback.stats().dropped == 1


def test_it_travels_with_the_configuration():
    """A tail sampler without a callable is JSON, and is read from it."""
    sampler = TailSampler(min_duration_s=5, background_ratio=0.5)
    values = json.loads(json.dumps(TracingConfig(tail_sampler=sampler).to_dict()))
    assert TracingConfig.from_dict(values).tail_sampler == sampler
    assert repr(sampler) == "TailSampler(min_duration_s=5, background_ratio=0.5)"
    with pytest.raises(TypeError, match="tail_sampler is or holds a callable"):
        TracingConfig(tail_sampler=TailSampler(keep=answered)).to_dict()


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"min_duration_s": -1}, ValueError, "min_duration_s must be at least 0, got -1"),
        ({"min_cost_usd": float("nan")}, ValueError, "min_cost_usd must be at least 0, got nan"),
        ({"min_tokens": "many"}, TypeError, "min_tokens must be a number or None, got 'many'"),
        ({"min_tokens": True}, TypeError, "min_tokens must be a number or None, got True"),
        ({"keep": "no"}, TypeError, "keep must be a callable EndedTrace -> bool, got 'no'"),
        ({"keep": CallKind}, TypeError, "keep must be a callable EndedTrace -> bool"),
        ({"background_ratio": 1.5}, ValueError, "background_ratio"),
        ({"keep_errors": 1}, TypeError, "keep_errors"),
    ],
)
def test_what_makes_no_sense_is_refused(options, kind, said):
    """A bound, a share or a callable that makes no sense is refused by name."""
    with pytest.raises(kind, match=said):
        TailSampler(**options)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (5, "must be a TailSampler or its arguments by name, got 5"),
        ({"ratio": 1}, "'ratio' is no argument of TailSampler; allowed are keep_errors"),
    ],
)
def test_an_option_that_is_no_tail_sampler_is_refused(value, said):
    """What is no tail sampler, nor its arguments, is refused as the option."""
    with pytest.raises(TypeError, match=said):
        MlflowCallback(tail_sampler=value)


def test_the_native_engine_refuses_it():
    """The native engine has no whole traces, and says so."""
    with pytest.raises(ValueError, match="a tail sampler needs whole traces"):
        MlflowCallback(engine="native", tail_sampler=TailSampler())
