"""One program call is one whole trace, however it is run."""

from __future__ import annotations

import asyncio

import dspy
from programs import Program, answering, program_tree


def test_a_program_call_is_one_trace(dspy_traces):
    """A call of a program is one trace, with a span for each module, format, LM call and parse."""
    with dspy.context(lm=answering()):
        Program()(question="why?")
    assert dspy_traces.tree() == [program_tree()]


def test_an_async_call_is_one_trace(dspy_traces):
    """`acall` gives the same trace as a call."""
    with dspy.context(lm=answering()):
        asyncio.run(Program().acall(question="why?"))
    assert dspy_traces.tree() == [program_tree()]
