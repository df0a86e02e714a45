"""Middleware: callables on a made call, and the chain that runs them."""

from __future__ import annotations

import uuid

import attrs
import pytest

from dspy_mlflow_callbacks import CallEnd, CallKind, CallStart, RatioSampler, RuleSampler, TagInjector
from dspy_mlflow_callbacks.middleware import Chain, MiddlewareError


def made_call(**changes) -> CallStart:
    call_id = uuid.uuid4().hex
    call = CallStart(kind=CallKind.MODULE, call_id=call_id, root_call_id=call_id, instance=object(), inputs={})
    return attrs.evolve(call, **changes)


def child_of(parent: CallStart) -> CallStart:
    return made_call(parent=parent, parent_call_id=parent.call_id, root_call_id=parent.root_call_id, is_entry=False)


def test_a_ratio_sampler_decides_by_the_root():
    """A child gets its root's answer, in every sampler of that ratio."""
    roots = [made_call() for _ in range(100)]
    kept = [RatioSampler(0.5)(root) is not None for root in roots]
    assert [RatioSampler(0.5)(child_of(root)) is not None for root in roots] == kept


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_ratio_out_of_range_is_refused(ratio):
    """A ratio that is no share raises ValueError that says what was given and what is allowed."""
    with pytest.raises(ValueError, match=rf"ratio must be a number from 0 to 1, got {ratio}"):
        RatioSampler(ratio)


@pytest.mark.parametrize("ratio", ["0.5", None, True])
def test_a_ratio_that_is_no_number_is_refused(ratio):
    """A ratio of another type raises TypeError that says what was given and what is allowed."""
    with pytest.raises(TypeError, match=rf"ratio must be a number from 0 to 1, got {ratio!r}"):
        RatioSampler(ratio)


def test_a_tag_injector_tags_roots_only():
    """The root carries the tags beside those it has; a child is left as it is."""
    injector, root = TagInjector({"team": "search"}), made_call(tags={"user": "tag"})
    child = child_of(root)
    assert injector(root).tags == {"user": "tag", "team": "search"}
    assert injector(child) is child


@pytest.mark.parametrize(
    ("tags", "error", "message"),
    [
        ("team", TypeError, "must be a mapping of texts to texts, got 'team'"),
        ({"n": 1}, TypeError, "tags must map texts to texts or callables, got 'n': 1"),
        ({1: "n"}, TypeError, "tags must map texts to texts or callables, got 1: 'n'"),
        ({"": "empty"}, ValueError, "tags must have keys of 1 to 250 characters, got ''"),
        ({"k" * 251: "long"}, ValueError, "tags must have keys of 1 to 250 characters, got 'kkk"),
        ({"k": "v" * 4097}, ValueError, r"tags\['k'\] must have at most 4096 characters, got 4097"),
    ],
)
def test_tags_that_mlflow_would_not_store_are_refused(tags, error, message):
    """Wrong tags raise at construction and say what was given and what is allowed."""
    with pytest.raises(error, match=message):
        TagInjector(tags)


def test_a_chain_runs_in_written_order():
    """Each step gets what the one before it returned, and a drop ends the chain."""
    seen = []

    def note(name, result=lambda call: call):
        def step(call):
            seen.append((name, call.name))
            return result(call)

        return step

    rename = note("rename", lambda call: attrs.evolve(call, name="renamed"))
    assert Chain([rename, note("after")]).on_start(made_call()).name == "renamed"
    assert Chain([note("drop", lambda call: None), note("never")]).on_start(made_call()) is None
    assert seen == [("rename", ""), ("after", "renamed"), ("drop", "")]


def test_a_step_with_on_end_changes_the_end():
    """Only steps that have an `on_end` see ends, in written order."""

    class Noter:
        def __init__(self, name):
            self.name = name

        def __call__(self, call):
            return call

        def on_end(self, end):
            return attrs.evolve(end, attributes={**end.attributes, self.name: len(end.attributes)})

    chain = Chain([Noter("a"), lambda call: call, Noter("b")])
    assert chain.on_end(CallEnd(call_id="1")).attributes == {"a": 0, "b": 1}


class Never(RatioSampler):
    def __call__(self, call):
        return None


@pytest.mark.parametrize(
    ("steps", "is_dropped"),
    [
        ([], False),
        ([RatioSampler(0)], True),
        ([RatioSampler(1)], False),
        ([RuleSampler([{"ratio": 0}], 0)], True),
        ([RuleSampler([{"name": "Search", "ratio": 0.0}])], False),
        ([TagInjector({"team": "search"}), RatioSampler(0)], False),
        ([Never(0)], False),
    ],
    ids=["empty", "none", "all", "rules for none", "rules for some", "behind another step", "a class of the user's"],
)
def test_a_chain_that_begins_with_a_sampler_drops_by_the_id_alone(steps, is_dropped):
    """A chain says of a root's id that it drops the trace only where its first step is a sampler that says so."""
    assert Chain(steps).drops(made_call().call_id) is is_dropped


class Raising:
    def __repr__(self):
        return "Raising()"

    def __call__(self, call):
        raise KeyError(call.call_id)

    def on_end(self, end):
        raise KeyError(end.call_id)


class Nonsense:
    def __repr__(self):
        return "Nonsense()"

    def __call__(self, call):
        return "nonsense"

    def on_end(self, end):
        return None


@pytest.mark.parametrize(
    ("step", "start_message", "end_message"),
    [
        (Raising(), r"Raising\(\) raised KeyError", r"Raising\(\)\.on_end raised KeyError"),
        (
            Nonsense(),
            r"Nonsense\(\) returned str; allowed are CallStart and None",
            r"Nonsense\(\)\.on_end returned NoneType; allowed is CallEnd",
        ),
    ],
)
def test_a_broken_step_is_named(step, start_message, end_message):
    """A step that raises or returns nonsense becomes an error that names it."""
    chain = Chain([step])
    with pytest.raises(MiddlewareError, match=start_message) as at_start:
        chain.on_start(made_call())
    with pytest.raises(MiddlewareError, match=end_message) as at_end:
        chain.on_end(CallEnd(call_id="1"))
    assert (at_start.value.step, at_end.value.step) == (step, step)


@pytest.mark.parametrize(
    ("middleware", "message"),
    [
        ("text", "middleware must be an iterable of callables, got 'text'"),
        (7, "middleware must be an iterable of callables, got 7"),
        ([RatioSampler(1), 7], r"middleware\[1\] must be a callable CallStart -> CallStart \| None, got 7"),
        ([RatioSampler], r"middleware\[0\] must be an instance, got the class RatioSampler"),
    ],
)
def test_middleware_that_cannot_be_called_is_refused(middleware, message):
    """A chain of something else than callables raises TypeError that names the place."""
    with pytest.raises(TypeError, match=message):
        Chain(middleware)


def test_a_chain_and_its_steps_print_themselves():
    """The settings can be read from the chain's repr."""
    chain = Chain([RatioSampler(0.5), TagInjector({"team": "search"})])
    assert repr(chain) == "Chain([RatioSampler(ratio=0.5), TagInjector(tags={'team': 'search'})])"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"kind": "lm"}, TypeError, r"'kind' must be .*CallKind.*'lm'"),
        ({"tags": 7}, TypeError, "tags must be a mapping of values by name, got 7"),
        ({"metadata": "text"}, TypeError, "metadata must be a mapping of values by name, got 'text'"),
        ({"attributes": None}, TypeError, "attributes must be a mapping of values by name, got None"),
        ({"level": "LOUD"}, ValueError, r"'level' must be in .*'DEBUG'.*'LOUD'"),
    ],
)
def test_a_call_that_cannot_be_is_refused(changes, error, message):
    """A call changed to something that no call can be raises at once: the argument, what is allowed, what was given."""
    with pytest.raises(error, match=message):
        made_call(**changes)


def test_an_end_that_cannot_be_is_refused():
    """An end's attributes are a mapping."""
    with pytest.raises(TypeError, match="attributes must be a mapping of values by name, got 7"):
        CallEnd(call_id="1", attributes=7)
