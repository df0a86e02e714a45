"""Tags, metadata, session and user: what `TagInjector` and the options of a callback put on traces."""

from __future__ import annotations

import copy
import pickle
import threading

import dspy
import mlflow
import pytest
from programs import Calling, Echo, Program, answering
from tagged import SAID, SESSION, TOLD, USER, said
from test_middleware import child_of, made_call
from threads import at_once

from dspy_mlflow_callbacks import CallKind, MlflowCallback, RuleSampler, TagInjector


def run(program=None, **options):
    with dspy.context(lm=answering(), callbacks=[MlflowCallback(**options)]):
        (program or Echo())()


def test_the_options_stand_on_the_trace(dspy_traces):
    """The options `tags`, `metadata`, `session_id` and `user` stand on each trace of the callback."""
    run(**TOLD)
    assert said(dspy_traces.one()) == SAID


def test_an_injector_does_the_same(dspy_traces):
    """A `TagInjector` in `middleware` puts the same on each trace as the options do."""
    run(middleware=[TagInjector(**TOLD)])
    assert said(dspy_traces.one()) == SAID


def test_each_text_may_be_a_callable(dspy_traces):
    """A callable is given the call where the trace begins, and says a tag, metadata, the session or the user."""
    run(
        tags={"team": lambda call: call.kind.value},
        metadata={"commit": lambda call: call.name},
        session_id=lambda call: call.call_id[:0] + "seven",
        user=lambda call: call.inputs.get("nobody", 7),
    )
    assert said(dspy_traces.one()) == {"team": "module", "commit": "Echo", SESSION: "seven", USER: "7"}


def test_a_callable_may_say_nothing(dspy_traces):
    """A callable that returns None gives no tag, no session and no user."""
    run(tags={"team": lambda call: None}, session_id=lambda call: None, user=lambda call: None)
    assert said(dspy_traces.one()) == {}


class Silent:
    """Cannot be made a text."""

    def __str__(self):
        raise RuntimeError("no text")


@pytest.mark.warns
@pytest.mark.parametrize("text", [lambda call: 1 / 0, lambda call: Silent()], ids=["raises", "no text"])
def test_a_callable_that_fails_costs_its_own_text_only(dspy_traces, warned, text):
    """What a failing callable would have said is missing from the traces; one warning says so, all else is there."""
    callback = MlflowCallback(tags={"mine": text, "team": "search"}, user=text)
    with dspy.context(callbacks=[callback]):
        for _ in range(3):
            Echo()()
    assert [said(trace) for trace in dspy_traces.all()] == [{"team": "search"}] * 3
    assert callback.stats().failed == 0
    assert [message.partition(":")[0] for message in warned.messages] == [
        "What should give the trace its 'mine' failed",
        f"What should give the trace its '{USER}' failed",
    ]


def test_a_callable_is_asked_once_a_trace(dspy_traces):
    """A callable is asked where the trace begins, not for the calls below."""
    asked = []
    with dspy.context(lm=answering(), callbacks=[MlflowCallback(tags={"n": lambda call: asked.append(call.name)})]):
        Program()(question="why?")
    assert asked == ["Program"]
    assert len(dspy_traces.one().data.spans) == 6


@pytest.mark.parametrize(("value", "tags"), [("blue", {"mine": "blue"}), ("", {}), (None, {})])
def test_tags_from_the_environment(monkeypatch, value, tags):
    """A variable is read where the trace begins; one that is unset or empty gives no tag."""
    injector = TagInjector(from_env={"mine": "TEST_OF_TAGS"})
    if value is not None:
        monkeypatch.setenv("TEST_OF_TAGS", value)
    assert injector(made_call()).tags == tags


def test_tags_from_dspys_settings(dspy_traces):
    """A path leads through attributes of DSPy's settings and keys of dicts; one that leads nowhere gives no tag."""
    paths = {
        "model": "lm.model",
        "mine": "lm.kwargs.temperature",
        "workers": "async_max_workers",
        "none": "lm.no.where",
    }
    lm = answering()
    lm.kwargs["temperature"] = 0.5
    with dspy.context(lm=lm, callbacks=[MlflowCallback(middleware=[TagInjector(from_settings=paths)])]):
        Echo()()
    assert said(dspy_traces.one(), paths) == {"model": "dummy", "mine": "0.5", "workers": "8"}


def test_settings_of_the_call_are_meant(dspy_traces):
    """Two threads with two `dspy.context`s give two tags."""
    callback = MlflowCallback(middleware=[TagInjector(from_settings={"mine": "branch_idx"})])
    both = threading.Barrier(2)

    def work(index):
        with dspy.context(branch_idx=index, callbacks=[callback]):
            both.wait(timeout=60)
            Echo()()

    at_once(lambda: work(1), lambda: work(2))
    assert sorted(said(trace)["mine"] for trace in dspy_traces.all()) == ["1", "2"]


LONG = "x" * 5000


def test_what_a_callable_says_is_cut_to_mlflows_limits():
    """Tags are cut at 4,096 characters, metadata, session and user at 250."""
    injector = TagInjector({"a": lambda call: LONG}, metadata={"b": lambda call: LONG}, user=lambda call: LONG)
    call = injector(made_call())
    assert {name: len(text) for name, text in {**call.tags, **call.metadata}.items()} == {
        "a": 4096,
        "b": 250,
        USER: 250,
    }


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"metadata": "text"}, TypeError, "^metadata must be a mapping of texts to texts, got 'text'"),
        ({"metadata": {"n": 1}}, TypeError, "^metadata must map texts to texts or callables, got 'n': 1"),
        ({"metadata": {"k": "v" * 251}}, ValueError, r"^metadata\['k'\] must have at most 250 characters, got 251"),
        ({"session_id": 7}, TypeError, "^session_id must be a text or a callable, got 7"),
        ({"session_id": "s" * 251}, ValueError, "^session_id must have at most 250 characters, got 251"),
        ({"user": ["ann"]}, TypeError, r"^user must be a text or a callable, got \['ann'\]"),
        ({"user": "u" * 251}, ValueError, "^user must have at most 250 characters, got 251"),
        ({"from_env": 7}, TypeError, "^from_env must be a mapping of texts to texts, got 7"),
        ({"from_env": {"pod": print}}, TypeError, "^from_env must map texts to texts, got 'pod': <built-in"),
        ({"from_settings": {"": "lm"}}, ValueError, "^from_settings must have keys of 1 to 250 characters, got ''"),
        ({"from_settings": {"model": None}}, TypeError, "^from_settings must map texts to texts, got 'model': None"),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments, error, message):
    """An argument that MLflow would not store raises at construction: its name, what is allowed, what was given."""
    with pytest.raises(error, match=message):
        TagInjector(**arguments)


def test_a_later_middleware_has_the_last_word(dspy_traces):
    """Of two injectors the later one wins, and both win over the options."""
    steps = [TagInjector({"mine": "first"}), TagInjector({"mine": "second", "team": "rank"})]
    run(tags={"mine": "option", "team": "option"}, user="ann", middleware=steps)
    assert said(dspy_traces.one()) == {"mine": "second", "team": "rank", USER: "ann"}


def test_below_a_users_span_the_users_trace_is_tagged(dspy_traces):
    """Below a span of the user's own the tags stand on the user's trace, beside the user's."""
    with mlflow.start_span("mine"):
        mlflow.update_current_trace(tags={"mine": "yes"})
        run(**TOLD)
    assert said(dspy_traces.one()) == {**SAID, "mine": "yes"}


def test_an_attached_programs_tags_stand_on_the_trace_around_it(dspy_traces):
    """A program of its own callback inside another's trace puts its tags on that trace, and wins over the other's."""
    inner = Echo()
    inner.callbacks = [MlflowCallback(tags={"team": "inner", "mine": "inner"}, session_id="inner")]
    run(Calling(inner), **TOLD)
    assert said(dspy_traces.one()) == {**SAID, "team": "inner", "mine": "inner", SESSION: "inner"}


@pytest.mark.parametrize(
    "options",
    [{"events": ["lm"]}, {"include": ["dummy"]}, {"events": ["lm", "adapter"]}],
    ids=["kind", "name", "kinds"],
)
def test_traces_below_a_hidden_root_are_tagged(dspy_traces, options):
    """Where the program's own call has no span, the traces that begin below it have the tags."""
    run(lambda: Program()(question="why?"), **TOLD, **options)
    traces = dspy_traces.all()
    assert len(traces) == (3 if "adapter" in options.get("events", ()) else 1)
    assert [said(trace) for trace in traces] == [SAID] * len(traces)


def test_tags_below_a_hidden_root_go_through_the_payload_steps(dspy_traces):
    """A payload step is asked for the tags of a trace that begins below a hidden call, before they are stored."""

    def hide(payload):
        return payload.with_text("hidden") if payload.text == "secret" else payload

    run(lambda: Program()(question="why?"), tags={"mine": "secret"}, events=["lm"], payload_steps=[hide])
    assert said(dspy_traces.one()) == {"mine": "hidden"}


def test_a_sampling_rule_sees_what_wins():
    """A scope's tag, which wins over an injector's, is the one that a sampling rule after the injector sees."""

    class Scope:
        tags, metadata = {"team": "scope"}, {}

    call = TagInjector({"team": "search"})(made_call(tags=dict(Scope.tags), scope=Scope()))
    assert call.tags == {"team": "scope"}
    assert RuleSampler([{"tags": {"team": "search"}, "ratio": 0.0}])(call) is call


def test_an_injector_leaves_calls_below_alone():
    """A call below another is returned as it is, at no cost."""
    child = child_of(made_call(kind=CallKind.MODULE))
    assert TagInjector(**TOLD)(child) is child


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_an_injector_can_be_copied(duplicate):
    """A copy equals the original and prints like it."""
    injector = TagInjector({"team": "search"}, from_env={"pod": "HOSTNAME"}, user="ann")
    assert duplicate(injector) == injector
    assert repr(duplicate(injector)) == "TagInjector(tags={'team': 'search'}, user='ann', from_env={'pod': 'HOSTNAME'})"
    assert hash(injector) == hash(duplicate(injector))


def test_what_the_user_changes_later_is_not_taken():
    """The mappings are copied at construction."""
    tags = {"team": "search"}
    injector = TagInjector(tags)
    tags["team"] = "rank"
    assert injector(made_call()).tags == {"team": "search"}
