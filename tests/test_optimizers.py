"""Optimizers: each `compile` is one trace below one WORKFLOW span, and its result is what it is without tracing."""

from __future__ import annotations

import threading
from collections import Counter

import dspy
import pytest
from heard import Heard
from offline_lm import OfflineLM
from optimizers import OPTIMIZERS, TRAINSET, compiled, student
from programs import Program, answering, program_tree
from threads import at_once

from dspy_mlflow_callbacks import MlflowCallback, dspy_internals, optimizer_runs
from dspy_mlflow_callbacks.testing.captured import tree


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_compile_is_one_trace(dspy_traces, request, optimizer):
    """With `compile="full"` all calls, in all threads, are one trace below a WORKFLOW span of the optimizer's name.

    Those of an evaluation are below its examples, for which DSPy emits no event.
    """
    heard = Heard()
    compiled(optimizer, [MlflowCallback(compile="full"), heard])
    ((name, span_type, status, _),) = dspy_traces.tree()
    spans = dspy_traces.spans()
    assert (name, span_type, status) == (request.node.callspec.id, "WORKFLOW", "OK")
    kinds = Counter(span.get_attribute("dspy.kind") for span in spans)
    del kinds["example"]
    assert kinds == heard.kinds
    assert {span.parent_id for span in spans[1:]} <= {span.span_id for span in spans}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_compiled_program_is_the_same_without_tracing(dspy_traces, optimizer):
    """Tracing changes nothing in the program that an optimizer makes."""
    assert compiled(optimizer, [MlflowCallback()]) == compiled(optimizer, [])


def test_a_compile_that_fails_is_one_failed_trace(dspy_traces):
    """An error in a `compile` ends its WORKFLOW span with an error status and reaches the caller."""

    def broken(example, prediction, trace=None):
        raise ZeroDivisionError

    callbacks = [MlflowCallback(compile="full")]
    with dspy.context(lm=OfflineLM(), callbacks=callbacks), pytest.raises(ZeroDivisionError):
        dspy.BootstrapFewShot(metric=broken, max_errors=1).compile(student(), trainset=TRAINSET)
    ((name, span_type, status, _),) = dspy_traces.tree()
    assert (name, span_type, status) == ("BootstrapFewShot", "WORKFLOW", "ERROR")


@pytest.mark.parametrize("manner", ["full", "summary", "off"])
def test_a_compile_does_not_stop_tracing_in_other_threads(dspy_traces, manner):
    """A program called while another thread compiles is a whole trace of its own, and counts to no compile."""
    compiles, called = threading.Event(), threading.Event()

    def waiting(example, prediction, trace=None):
        compiles.set()
        assert called.wait(timeout=60)
        return True

    def compile_one():
        with dspy.context(lm=OfflineLM()):
            dspy.BootstrapFewShot(metric=waiting, max_bootstrapped_demos=1).compile(student(), trainset=TRAINSET)

    def serve():
        assert compiles.wait(timeout=60)
        with dspy.context(lm=answering()):
            Program()(question="why?")
        called.set()

    with dspy_internals.restored_settings(callbacks=[MlflowCallback(compile=manner, evaluate="off")]):
        at_once(compile_one, serve)
    traces = {tree(trace)[0][0]: trace for trace in dspy_traces.all()}
    assert set(traces) == {"Program"} | ({"BootstrapFewShot"} if manner != "off" else set())
    assert tree(traces["Program"]) == [program_tree()]
    spent = [each.spent for each in optimizer_runs(traces.values()) if each.spent]
    assert [each["trials"]["lm_calls"] for each in spent] == ([1] if manner == "summary" else [])
