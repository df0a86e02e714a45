"""What goes wrong when a trace leaves is counted and said, and costs no other."""

from __future__ import annotations

import threading

import dspy
import mlflow
import pytest
from expected import bare
from mlflow.tracing.trace_manager import InMemoryTraceManager
from programs import Echo, Program, Runs, program_tree

from dspy_mlflow_callbacks import MlflowCallback, TailSampler, flush, propagate
from dspy_mlflow_callbacks.mlflow_internals import live_traces
from dspy_mlflow_callbacks.testing.captured import tree

pytestmark = pytest.mark.usefixtures("nothing_open")


def fail(*_, **__):
    raise ZeroDivisionError("oops")


@pytest.mark.warns
def test_a_trace_that_cannot_be_made_ready_is_said(dspy_traces, recorded, warned, monkeypatch):
    """A trace of which MLflow's own facts cannot be had is counted as lost and said once; the others are stored."""
    program = Runs(lambda _: mlflow.update_current_trace(metadata={"mine": "1"}))
    with monkeypatch.context() as patch:
        patch.setattr(live_traces, "set_request_response_preview", fail)
        program()
        program()
        assert recorded.flush()
    Program()(question="why?")
    assert dspy_traces.tree() == [program_tree()]
    stats = recorded.stats()
    assert (stats.stored, stats.lost, stats.failed) == (1, 2, 2)
    assert warned.messages == ["A span was lost or is incomplete: ZeroDivisionError('oops')"]


@pytest.mark.warns
def test_a_store_that_refuses_is_said(dspy_traces, recorded, warned, monkeypatch):
    """A trace that the store refuses is counted as lost and said; those with it in a batch are stored."""

    def forward(_):
        mlflow.get_current_active_span().set_attribute("mlflow.chat.tokenUsage", {"total_tokens": None})

    Echo()()
    Runs(forward)()
    Echo()()
    assert recorded.flush()
    assert [tree(trace)[0][0] for trace in dspy_traces.all()] == ["Echo", "Echo"]
    assert (recorded.stats().stored, recorded.stats().lost) == (2, 1)
    assert all(message.startswith("Traces are not stored in sqlite:") for message in warned.messages)
    assert len(warned.messages) <= 1  # once for the store, be it in another test


@pytest.mark.parametrize("expired", [False, True])
def test_a_trace_that_mlflow_puts_out_of_its_memory(dspy_traces, recorded, expired):
    """What is looked at again after MLflow has put its trace out of its memory is stored all the same."""
    manager = InMemoryTraceManager.get_instance()

    def forward(_):
        mlflow.get_current_active_span().set_attribute("before", 1)
        with mlflow.start_span("mine"):
            manager._traces.clear()
            if expired:
                manager._otel_id_to_mlflow_trace_id.clear()
        mlflow.get_current_active_span().set_attribute("after", 1)
        mlflow.update_current_trace(tags={"after": "1"})

    Runs(forward)()
    trace = dspy_traces.one()
    root = next(span for span in trace.data.spans if span.name == "Runs")
    assert (root.get_attribute("before"), root.get_attribute("after")) == (1, 1)
    assert trace.info.tags["after"] == "1"
    assert sorted(span.name for span in trace.data.spans) == ["Runs", "mine"]
    assert not manager._traces


def test_ids_that_are_none_of_dspys(dspy_traces, recorded):
    """Calls whose ids are no UUIDs get span and trace ids all the same."""
    for call_id in ("call", "0" * 32, ""):
        recorded.on_module_start(call_id, Echo(), {"args": (), "kwargs": {}})
        recorded.on_module_end(call_id, "said", None)
    ids = {(span.trace_id, span.span_id) for span in dspy_traces.spans()}
    assert len(ids) == 3
    assert not any(set(part.removeprefix("tr-")) == {"0"} for pair in ids for part in pair)


def hand_over(program, late, *, by=()):
    """Run a module that hands a program to a thread, where it does *late* when the module's trace has been stored.

    Args:
        program: Makes the module, given what it does.
        late: What the program does.
        by: The program's own callbacks.
    """
    begun, may_go_on, threads = threading.Event(), threading.Event(), []

    def work(_):
        begun.set()
        assert may_go_on.wait(60)
        late()

    inner = Runs(work)
    inner.callbacks = list(by)

    def begin(_):
        threads.append(threading.Thread(target=propagate(inner)))
        threads[0].start()
        assert begun.wait(60)

    program(begin)()
    flush()
    may_go_on.set()
    threads[0].join()


@pytest.mark.warns
def test_a_late_span_that_the_store_refuses_is_counted(dspy_traces, recorded, warned):
    """What ends after its trace has been stored and is refused counts as lost, and costs no other span."""

    def refused(_):
        mlflow.get_current_active_span().set_attribute("mlflow.chat.tokenUsage", {"total_tokens": None})

    hand_over(Runs, Runs(refused))
    assert recorded.flush()
    assert dspy_traces.tree() == [bare("Runs", bare("Runs"))]
    assert (recorded.stats().stored, recorded.stats().lost) == (1, 1)
    assert len(warned.messages) <= 1  # once for the store, be it in another test


def test_what_ends_after_its_trace_was_dropped_is_dropped_too(dspy_traces, recorded):
    """Where a tail sampler has dropped a trace, what another callback's program still does in it is not stored."""

    def sampled(function):
        program = Runs(function)
        program.callbacks = [MlflowCallback(tail_sampler=TailSampler(background_ratio=0))]
        return program

    with dspy.context(callbacks=[]):
        hand_over(sampled, Echo(), by=[recorded])
    assert recorded.flush()
    assert dspy_traces.all() == []
    stats = recorded.stats()
    assert (stats.ended, stats.stored, stats.lost, stats.failed) == (2, 0, 0, 0)
