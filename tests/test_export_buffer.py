"""The buffer: its limits, who waits for room, and who waits until all is gone."""

from __future__ import annotations

import threading

import pytest
from ended import EndedTrace, wait_until

from dspy_mlflow_callbacks.export.buffer import NEVER, Buffer
from dspy_mlflow_callbacks.export.waiting import Limits

WIDE = Limits(max_traces=1000, max_bytes=1_000_000)


def in_thread(function, *args):
    """Call a function in a thread; return the thread, and the list that will have what it returned."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function(*args)), daemon=True)
    thread.start()
    return thread, results


def fill(buffer, limits, *, size=1000):
    """Put traces until there is no room; return how many there was room for."""
    count = 0
    while buffer.put(EndedTrace(size=size), limits):
        count += 1
    return count


def test_traces_leave_in_the_order_in_which_they_came():
    """The worker takes the traces that have waited longest, and as many as it asks for."""
    buffer, traces = Buffer(), [EndedTrace() for _ in range(5)]
    for trace in traces:
        assert buffer.put(trace, WIDE)
    assert [entry.trace for entry in buffer.take(3)] == traces[:3]
    assert [entry.trace for entry in buffer.take(NEVER)] == traces[3:]
    assert buffer.take(NEVER) == []


def test_a_trace_counts_until_it_leaves():
    """A trace that the worker has taken counts until it is stored; it leaves once."""
    buffer = Buffer()
    buffer.put(EndedTrace(size=300), WIDE)
    (entry,) = buffer.take(NEVER)
    assert (len(buffer), buffer.size, buffer.fill) == (1, 300, 0.001)
    assert (buffer.leave(entry), buffer.leave(entry)) == (True, False)
    assert (len(buffer), buffer.size, buffer.fill) == (0, 0, 0.0)


@pytest.mark.parametrize(
    ("limits", "count"),
    [
        (Limits(max_traces=7, on_full="drop"), 7),
        (Limits(max_bytes=10_000, on_full="drop"), 10),
        (Limits(max_traces=7, max_bytes=10_000, max_block_s=0.01), 7),
    ],
    ids=["number", "bytes", "after a wait"],
)
def test_it_holds_no_more_than_its_limits(limits, count):
    """There is room for so many traces and so many bytes, whichever comes first."""
    buffer = Buffer()
    assert fill(buffer, limits) == count
    assert buffer.fill == 1.0


def test_bytes_are_held_to_within_a_fifth():
    """With traces of any size the buffer fills its byte limit to within a fifth, and does not pass it."""
    buffer, limits = Buffer(), Limits(max_bytes=1_000_000, on_full="drop")
    assert fill(buffer, limits, size=70_001) == 14
    assert 800_000 < buffer.size <= 1_000_000


def test_a_trace_larger_than_the_buffer_is_taken_alone():
    """A trace larger than all the room there is waits alone: it is in memory anyway, and lost otherwise."""
    buffer, limits = Buffer(), Limits(max_bytes=1000, on_full="drop")
    assert buffer.put(EndedTrace(size=5000), limits)
    assert not buffer.put(EndedTrace(size=1), limits)


def test_a_call_waits_for_room():
    """A call that finds no room waits, and goes on as soon as a trace leaves."""
    buffer, limits = Buffer(), Limits(max_traces=1, max_block_s=60.0)
    buffer.put(EndedTrace(), limits)
    thread, results = in_thread(buffer.put, EndedTrace(), limits)
    wait_until(lambda: buffer._left._waiters)
    buffer.leave(buffer.take(1)[0])
    thread.join(60)
    assert results == [True]


def test_where_nothing_moves_one_call_waits_for_all():
    """Once a call has waited in vain, the next ones do not wait, until a trace leaves."""
    buffer, limits = Buffer(), Limits(max_traces=1, max_block_s=0.01)
    buffer.put(EndedTrace(), limits)
    assert not buffer.put(EndedTrace(), limits)
    assert not buffer.put(EndedTrace(), Limits(max_traces=1, max_block_s=3600.0))
    buffer.leave(buffer.take(1)[0])
    assert buffer.put(EndedTrace(), limits)


def test_draining_waits_for_what_was_there_before():
    """Who drains the buffer waits for the traces of before, in whatever order they leave, and not for later ones."""
    buffer = Buffer()
    for _ in range(2):
        buffer.put(EndedTrace(), WIDE)
    entries = buffer.take(NEVER)
    thread, results = in_thread(buffer.drain, 60.0)
    wait_until(lambda: buffer.is_hurried)
    buffer.put(EndedTrace(), WIDE)
    buffer.leave(entries[1])
    assert thread.is_alive()
    buffer.leave(entries[0])
    thread.join(60)
    assert (results, buffer.is_hurried, len(buffer)) == ([True], False, 1)


def test_draining_has_a_time_limit():
    """Who drains the buffer is told whether all is gone in time; an empty one is."""
    buffer = Buffer()
    assert buffer.drain(None)
    buffer.put(EndedTrace(), WIDE)
    assert not buffer.drain(0.01)


def test_a_trace_may_be_held_and_wait_later():
    """A trace that is stored by the call itself counts too, and can be left to the worker."""
    buffer = Buffer()
    entry = buffer.hold(EndedTrace())
    assert (len(buffer), buffer.take(NEVER)) == (1, [])
    buffer.wait_again(entry)
    assert (buffer.held(), buffer.take(NEVER)) == ([entry], [entry])


@pytest.mark.parametrize(
    ("wake", "patiently"),
    [
        (lambda buffer: buffer.put(EndedTrace(), WIDE), True),
        (lambda buffer: in_thread(buffer.drain, 60.0), False),
        (lambda buffer: buffer.close(), True),
    ],
    ids=["a trace", "somebody in a hurry", "the end"],
)
def test_the_worker_is_woken(wake, patiently):
    """The worker wakes when enough traces wait, when somebody waits for them, and at the end."""
    buffer = Buffer()
    buffer.put(EndedTrace(), WIDE)
    waiting, _ = in_thread(lambda: buffer.wait(2, None, patiently=patiently))
    wait_until(lambda: buffer._arrived._waiters)
    wake(buffer)
    waiting.join(60)
    assert not waiting.is_alive()


def test_a_patient_worker_is_not_woken_by_a_hurry():
    """A worker that waits for a store to come back waits its time, even if somebody is in a hurry."""
    buffer = Buffer()
    buffer.put(EndedTrace(), WIDE)
    in_thread(buffer.drain, 60.0)
    wait_until(lambda: buffer.is_hurried)
    buffer.take(NEVER)
    buffer.wait(1, 0.01, patiently=True)
    assert buffer.is_hurried
