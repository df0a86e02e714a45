"""The values that travel, and the quick way in which this package makes them."""

from __future__ import annotations

import copy
import pickle

import attrs
import pytest

from dspy_mlflow_callbacks import CallEnd, CallKind, CallStart, events
from dspy_mlflow_callbacks.events import SpanEnd, SpanStart

START = {"kind": CallKind.LM, "call_id": "1", "root_call_id": "0", "instance": None, "inputs": {"prompt": "why?"}}

EVENTS = [
    (events.new_call_start, CallStart, START),
    (events.new_call_start, CallStart, {**START, "name": "a", "level": "INFO", "locator": None, "watch": 1}),
    (events.new_call_end, CallEnd, {"call_id": "1", "outputs": [1]}),
    (events.new_span_start, SpanStart, {"name": "a", "span_type": "LLM"}),
    (events.new_span_end, SpanEnd, {"outputs": "1", "attributes": {"a": "1"}}),
]
each_event = pytest.mark.parametrize(("quick", "cls", "facts"), EVENTS)


@each_event
def test_quickly_made_event_is_like_any_other(quick, cls, facts):
    """An event that was made quickly is of the public class, equal to one of the same facts, and looks like it."""
    made = quick(**facts)
    assert type(made) is cls
    assert made == cls(**facts)
    assert repr(made) == repr(cls(**facts))
    assert copy.copy(made) == made


@each_event
def test_quickly_made_event_cannot_be_changed(quick, cls, facts):
    """An event that was made quickly is frozen as any other."""
    made = quick(**facts)
    for name in facts:
        with pytest.raises((attrs.exceptions.FrozenInstanceError, AttributeError)):
            setattr(made, name, "other")
        with pytest.raises((attrs.exceptions.FrozenInstanceError, AttributeError)):
            delattr(made, name)
    assert made == cls(**facts)


@each_event
def test_quick_event_wants_its_facts(quick, cls, facts):
    """A fact that is no fact of the event, or one that is missing, is refused."""
    with pytest.raises(TypeError):
        quick(**facts, nonsense=1)
    if cls is not SpanEnd:
        with pytest.raises(TypeError):
            quick()


def test_changed_copy_of_a_quickly_made_call_is_checked():
    """What a middleware makes of a call with `attrs.evolve` is checked, however the call was made."""
    call = events.new_call_start(**START)
    assert attrs.evolve(call, name="other") == CallStart(**START, name="other")
    with pytest.raises(ValueError, match="level"):
        attrs.evolve(call, level="LOUD")
    with pytest.raises(TypeError, match="tags must be a mapping"):
        attrs.evolve(call, tags=["a"])


@pytest.mark.parametrize("kind", CallKind)
def test_kind_is_the_only_one_of_its_name(kind):
    """A kind that crossed to another process is found in the same tables."""
    assert {kind: 1}[pickle.loads(pickle.dumps(kind))] == 1
