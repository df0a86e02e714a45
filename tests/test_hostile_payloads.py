"""Whatever values a program hands around, it does the same as untraced, and each call is one closed span."""

from __future__ import annotations

import dspy
import pytest
from hostile import VALUES, LyingClass, RaisingRepr
from hypothesis import HealthCheck, given, settings
from programs import Runs, answering

from dspy_mlflow_callbacks import MlflowCallback

hostile = settings(
    max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture
def callback(dspy_traces, nothing_left):
    """Return the callback; it must have lost nothing when the test ends."""
    callback = MlflowCallback()
    dspy.configure(lm=answering(), callbacks=[callback])
    yield callback
    stats = callback.stats()
    assert (stats.started, stats.failed, stats.lost, stats.open) == (stats.ended, 0, 0, 0)


def test_values_that_modules_take_and_return(dspy_traces, callback):
    """A module gets and returns the very object, and its call is one stored trace of one span."""
    calls = []

    @hostile
    @given(value=VALUES)
    def check(value):
        got = []
        program = Runs(lambda given: got.append(given) or given)
        assert program(given=value) is value
        assert got[0] is value
        calls.append(1)

    check()
    traces = dspy_traces.all()
    assert [len(trace.data.spans) for trace in traces] == [1] * len(calls)
    assert {trace.info.state for trace in traces} == {"OK"}


def test_values_that_tools_take_and_return(dspy_traces, callback):
    """So do tools."""
    calls = []

    def echo(value):
        return value

    @settings(hostile, max_examples=30)
    @given(value=VALUES)
    def check(value):
        tool = dspy.Tool(echo, args={"value": {}}, arg_types={"value": object}, arg_desc={})
        try:
            untraced = echo_untraced(tool, value)
        except Exception as error:
            with pytest.raises(type(error)):
                tool(value=value)
        else:
            assert tool(value=value) is untraced
        calls.append(1)

    check()
    assert [len(trace.data.spans) for trace in dspy_traces.all()] == [1] * len(calls)


def echo_untraced(tool, value):
    with dspy.context(callbacks=[]):
        return tool(value=value)


@pytest.mark.parametrize("hostile_class", [LyingClass, RaisingRepr])
def test_values_that_hypothesis_cannot_make(dspy_traces, callback, hostile_class):
    """Objects on which the test's own tools choke are taken and returned too, in a list and alone."""
    for value in (hostile_class(), [hostile_class()]):
        assert Runs(lambda given: given)(given=value) is value
    assert [trace.info.state for trace in dspy_traces.all()] == ["OK", "OK"]


def test_exceptions_that_cannot_be_told(dspy_traces, callback):
    """An exception with a hostile text and hostile arguments reaches the caller as it is."""
    calls = []

    class HostileError(Exception):
        def __init__(self, value):
            super().__init__(value)
            self.value = value

    def fail(error):
        raise error

    @settings(hostile, max_examples=30)
    @given(value=VALUES)
    def check(value):
        error = HostileError(value)
        with pytest.raises(HostileError) as raised:
            Runs(fail)(given=error)
        assert raised.value is error
        calls.append(1)

    check()
    traces = dspy_traces.all()
    assert [trace.info.state for trace in traces] == ["ERROR"] * len(calls)
