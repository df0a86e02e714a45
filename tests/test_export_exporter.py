"""The exporter: every trace is delivered once, in batches, and told what became of it, whatever its store says."""

from __future__ import annotations

import threading

import attrs
import pytest
from ended import NOWHERE, EndedTrace, FakeStore, spans_of_a_trace, wait_until

from dspy_mlflow_callbacks.export import errors
from dspy_mlflow_callbacks.export.buffer import NEVER, Buffer
from dspy_mlflow_callbacks.export.delivery import HOLDING, SENDING
from dspy_mlflow_callbacks.export.errors import RefusedError, StoreAwayError
from dspy_mlflow_callbacks.export.exporter import Exporter
from dspy_mlflow_callbacks.export.lanes import MOST_TRACES
from dspy_mlflow_callbacks.export.outcomes import Outcomes
from dspy_mlflow_callbacks.export.pace import Work
from dspy_mlflow_callbacks.export.spool.spools import Spools
from dspy_mlflow_callbacks.export.waiting import Limits

LIMITS = Limits()
ELSEWHERE = attrs.evolve(NOWHERE, tracking_uri="elsewhere://store")


@pytest.fixture
def store():
    return FakeStore()


@pytest.fixture
def exporter(store):
    exporter = Exporter(store)
    yield exporter
    store.may_answer.set()
    exporter.close(0.0)


def gathered(exporter, store, traces):
    """Let traces gather behind one that its store is busy with."""
    store.may_answer.clear()
    first = EndedTrace()
    exporter.put(first, LIMITS)
    assert store.is_asked.wait(60)
    for trace in traces:
        exporter.put(trace, LIMITS)
    store.may_answer.set()
    return first


def put_all(exporter, traces):
    for trace in traces:
        exporter.put(trace, LIMITS)
    return [trace.outcome() for trace in traces]


def test_each_trace_is_stored_once_and_told_so(exporter, store):
    """Traces from many threads are each stored once, and nothing is left."""
    traces = [EndedTrace() for _ in range(400)]
    threads = [threading.Thread(target=put_all, args=(exporter, traces[number::8])) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(map(id, store.traces)) == sorted(map(id, traces))
    assert {trace.outcome() for trace in traces} == {"stored"}
    assert (exporter.queued, exporter.queued_bytes, exporter.flush(60)) == (0, 0, True)


@pytest.mark.parametrize(
    ("make", "sizes"),
    [
        (EndedTrace, [1, 100, 100, 50]),
        (lambda: EndedTrace(spans=spans_of_a_trace(10)), [1] + [50] * 5),
        (lambda: EndedTrace(size=100_000), [1] + [10] * 25),
        (lambda: EndedTrace(size=1_000_000), [1] + [1] * 250),
    ],
    ids=["traces", "spans", "bytes", "each too large"],
)
def test_what_gathers_leaves_in_large_batches(exporter, store, make, sizes):
    """Under load a batch has up to 100 traces, 500 spans or 1 MB, and whole traces only."""
    traces = [make() for _ in range(250)]
    gathered(exporter, store, traces)
    assert exporter.flush(60)
    assert [len(batch) for batch in store.batches] == sizes
    assert store.traces[1:] == traces


def test_a_batch_has_one_destination(exporter, store):
    """Traces of different experiments, runs, workspaces and stores leave in batches of their own."""
    destinations = [
        NOWHERE,
        attrs.evolve(NOWHERE, experiment_id="2"),
        attrs.evolve(NOWHERE, run_id="r"),
        attrs.evolve(NOWHERE, workspace="w"),
        ELSEWHERE,
    ]
    traces = [EndedTrace(destination) for _ in range(3) for destination in destinations]
    gathered(exporter, store, traces)
    assert exporter.flush(60)
    assert [len(batch) for batch in store.batches] == [1, 3, 3, 3, 3, 3]
    assert all(len({trace.destination for trace in batch}) == 1 for batch in store.batches)


def test_traces_with_more_than_spans_leave_by_themselves(exporter, store):
    """A batch has either traces of spans alone, or traces that take more calls."""
    traces = [EndedTrace(), EndedTrace(info="info"), EndedTrace(prompts=["p"]), EndedTrace(attachments={"a": "b"})]
    gathered(exporter, store, [*traces, EndedTrace()])
    assert exporter.flush(60)
    assert [len(batch) for batch in store.batches] == [1, 1, 3, 1]


def test_under_load_small_batches_leave_the_program_its_time(exporter, store):
    """While the program ends traces, a thread that writes to a database takes a few at a time; then it takes many."""
    store.fails = lambda batch: exporter.put(EndedTrace(), LIMITS) if store.asked <= 4 else None
    gathered(exporter, store, [EndedTrace() for _ in range(60)])
    wait_until(lambda: len(store.traces) == 65)
    assert [len(batch) for batch in store.batches] == [1, 10, 10, 10, 10, 24]


def test_nothing_is_written_that_a_process_on_its_way_will_write(exporter, store, monkeypatch):
    """While the program ends traces, a batch waits a moment for a process that is starting; then it is asked again."""
    asked = []
    monkeypatch.setattr(exporter._delivery, "pace", lambda destination: asked.append(store.asked) or HOLDING)
    gathered(exporter, store, [EndedTrace() for _ in range(5)])
    wait_until(lambda: len(store.traces) == 6)
    assert asked == [0, 1, 1]


class Watched(Buffer):
    """Keeps what is waited for, and does not wait."""

    def __init__(self):
        super().__init__()
        self.awaited = []

    def wait(self, awaited, timeout_s, *, patiently=False):
        self.awaited.append(awaited)


@pytest.mark.parametrize(("left", "awaited"), [(MOST_TRACES - 1, [1]), (MOST_TRACES, [])])
def test_a_worker_lets_a_batch_gather(left, awaited):
    """Under load the worker waits until a whole batch is there; where it has one already, it only rests."""
    buffer = Watched()
    with Work(buffer) as work:
        buffer.put(EndedTrace(), LIMITS)
    SENDING.rest(buffer, work, 1, left)
    assert [each for each in buffer.awaited if each != NEVER] == awaited


class Silent(EndedTrace):
    def prepared(self):
        return None


class Broken(EndedTrace):
    def prepared(self):
        raise ValueError("broken step")


class Deaf(EndedTrace):
    def done(self, outcome, error=None):
        super().done(outcome, error)
        raise ValueError("deaf")


@pytest.mark.parametrize("put", [lambda e, t: e.put(t, LIMITS), Exporter.deliver_now], ids=["later", "now"])
def test_a_trace_that_cannot_be_prepared_leaves_alone(exporter, store, put):
    """A trace that a tail sampler drops, or whose step raises, is told so and never sent."""
    silent, broken, good = Silent(), Broken(), EndedTrace()
    for trace in (silent, broken, good):
        put(exporter, trace)
    assert [trace.outcome() for trace in (silent, broken, good)] == ["dropped", "failed", "stored"]
    assert broken.told == [("failed", "broken step")]
    assert exporter.flush(60)
    assert store.traces == [good]


@pytest.mark.warns
def test_a_trace_that_cannot_be_told_does_not_end_the_worker(exporter, store, warned):
    """An error in telling a trace what became of it is said once, and the next ones are stored."""
    traces = [Deaf(), Deaf(), EndedTrace()]
    assert put_all(exporter, traces) == ["stored"] * 3
    assert warned.messages == ["A trace could not be told what became of it."]


@pytest.mark.warns
@pytest.mark.parametrize("error", [RefusedError("bad trace"), ValueError("bad trace")], ids=["refused", "not sendable"])
def test_one_bad_trace_does_not_take_others_along(exporter, store, warned, error):
    """A batch that is refused is split until the bad trace is alone."""
    traces = [EndedTrace() for _ in range(20)]
    store.fails = lambda batch: error if traces[13] in [entry.trace for entry in batch.entries] else None
    gathered(exporter, store, traces)
    assert [trace.outcome() for trace in traces] == ["stored"] * 13 + ["failed"] + ["stored"] * 6
    assert len(warned.messages) == 1
    assert warned.messages[0].startswith("Traces are not stored in nowhere://store: ")
    assert "bad trace" in traces[13].told[0][1]


@pytest.mark.warns
def test_what_is_refused_for_all_is_not_split(exporter, store, warned):
    """Where no trace has a chance, as in an experiment that is gone, the store is asked once for a batch."""
    traces = [EndedTrace() for _ in range(20)]
    store.fails = lambda batch: RefusedError("no such experiment", is_for_all=True)
    gathered(exporter, store, traces)
    assert exporter.flush(60)
    assert {trace.outcome() for trace in traces} == {"failed"}
    assert store.asked == 2
    assert warned.messages == [
        "Traces are not stored in nowhere://store: no such experiment. The program goes on without them."
    ]


@pytest.mark.warns
def test_a_store_that_was_away_gets_everything_once(exporter, store, warned):
    """While a store is away, its traces wait; once it is back, each is stored once. It is said once."""
    destination = attrs.evolve(NOWHERE, tracking_uri="postgresql://user:secret@host/db")
    traces = [EndedTrace(destination) for _ in range(5)]
    store.fails = lambda batch: StoreAwayError("no answer of postgresql://user:secret@host/db")
    for trace in traces:
        exporter.put(trace, LIMITS)
    wait_until(lambda: warned.messages)
    assert (exporter.queued, store.traces) == (5, [])
    store.fails = lambda batch: None
    assert exporter.flush(60)
    assert [trace.outcome() for trace in traces] == ["stored"] * 5
    assert sorted(map(id, store.traces)) == sorted(map(id, traces))
    (message,) = warned.messages
    assert message.startswith("Traces are not stored in postgresql://host/db: no answer of postgresql://host/db. ")


def test_a_store_that_is_away_holds_up_no_other(exporter, store):
    """Traces for another store are delivered while one is away; who waits for all waits in vain."""
    waiting = EndedTrace(ELSEWHERE)
    store.fails = lambda batch: StoreAwayError("away") if batch.destination == ELSEWHERE and store.asked < 2 else None
    exporter.put(waiting, LIMITS)
    assert put_all(exporter, [EndedTrace(), EndedTrace()]) == ["stored"] * 2
    assert waiting.outcome() == "stored"


@pytest.mark.warns
def test_a_trace_over_which_a_store_fails_is_given_up_in_the_end(exporter, store, warned):
    """A server that fails over one trace, again and again, and takes all others, loses that one only."""
    traces = [EndedTrace() for _ in range(6)]
    fault = StoreAwayError("internal error", may_be_the_batch=True)
    store.fails = lambda batch: fault if traces[2] in [entry.trace for entry in batch.entries] else None
    gathered(exporter, store, traces)
    assert exporter.flush(60)
    assert [trace.outcome() for trace in traces] == ["stored"] * 2 + ["failed"] + ["stored"] * 3
    assert sorted(map(id, store.traces[1:])) == sorted(id(trace) for trace in traces if trace is not traces[2])


@pytest.mark.warns
def test_a_store_that_fails_over_everything_loses_nothing(exporter, store):
    """A store with an error of its own at every batch is waited for, however often it is asked."""
    trace = EndedTrace()
    store.fails = lambda batch: StoreAwayError("internal error", may_be_the_batch=True) if store.asked < 8 else None
    exporter.put(trace, LIMITS)
    assert exporter.flush(60)
    assert (trace.outcome(), store.asked) == ("stored", 8)


def test_a_trace_can_be_stored_at_once(exporter, store):
    """Delivered now, a trace is stored when the call returns, in the caller's thread."""
    threads = []
    store.fails = lambda batch: threads.append(threading.current_thread())
    trace = EndedTrace()
    exporter.deliver_now(trace)
    assert (trace.told, threads, exporter.queued) == ([("stored", None)], [threading.current_thread()], 0)


@pytest.mark.warns
def test_a_trace_that_is_refused_at_once_has_failed(exporter, store, warned):
    """Delivered now, a trace that the store refuses has failed when the call returns."""
    store.fails = lambda batch: RefusedError("bad trace")
    trace = EndedTrace()
    exporter.deliver_now(trace)
    assert (trace.told, exporter.queued, len(warned.messages)) == ([("failed", "bad trace")], 0, 1)


def test_a_trace_whose_store_is_away_is_stored_later(exporter, store):
    """Delivered now to a store that is away, a trace waits for it like all others, and is prepared once."""
    store.fails = lambda batch: StoreAwayError("away") if store.asked == 1 else None
    trace = EndedTrace()
    exporter.deliver_now(trace)
    assert (trace.outcome(), store.traces) == ("stored", [trace])


@pytest.mark.warns
def test_what_finds_no_room_is_dropped_and_said_once(exporter, store, warned):
    """Traces for which there is no room are told so; one line says it for all of a minute."""
    limits = Limits(max_traces=2, on_full="drop")
    store.may_answer.clear()
    traces = [EndedTrace() for _ in range(5)]
    for trace in traces:
        exporter.put(trace, limits)
    assert [trace.told for trace in traces[2:]] == [[("dropped", None)]] * 3
    assert warned.messages == ["The buffer is full: 1 traces dropped, as more end than are stored."]


def test_a_trace_is_not_told_twice_that_there_was_no_room():
    """A trace that was given up while it waited for room hears nothing more, and is not counted again."""
    buffer, trace = Buffer(), EndedTrace()
    outcomes, entry = Outcomes(buffer, Spools()), buffer.hold(trace)
    outcomes.stored([entry])
    outcomes.gives_up(entry)
    assert (trace.outcome(), len(buffer)) == ("stored", 0)


def test_flushing_has_a_time_limit(exporter, store):
    """Who flushes is told whether everything is stored in time."""
    store.may_answer.clear()
    exporter.put(EndedTrace(), LIMITS)
    assert not exporter.flush(0.01)
    store.may_answer.set()
    assert exporter.flush(60)


@pytest.mark.warns
def test_closing_has_a_time_limit(exporter, store, warned):
    """What is not stored when the time is up is given up, and told so once, even if it is stored after all."""
    store.may_answer.clear()
    traces = [EndedTrace() for _ in range(3)]
    for trace in traces:
        exporter.put(trace, LIMITS)
    assert store.is_asked.wait(60)
    exporter.close(0.01)
    assert [trace.outcome() for trace in traces] == ["failed"] * 3
    (message,) = warned.messages
    assert "not stored within 0.01 s when the program ended" in message
    store.may_answer.set()
    wait_until(lambda: not exporter._worker.is_alive)
    assert [len(trace.told) for trace in traces] == [1, 1, 1]


@pytest.mark.warns
def test_after_the_end_traces_are_stored_at_once(exporter, store):
    """A trace that ends after the exporter was closed is stored by its own call, or has failed."""
    exporter.close(60)
    stored, failed = EndedTrace(), EndedTrace()
    exporter.put(stored, LIMITS)
    store.fails = lambda batch: StoreAwayError("away")
    exporter.put(failed, LIMITS)
    assert (stored.told, failed.told) == ([("stored", None)], [("failed", "away")])
    exporter.close(60)


def test_without_a_thread_the_calls_store_traces(exporter, store, monkeypatch):
    """Where the interpreter has no more threads, a trace is stored by its own call."""

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    traces = [EndedTrace(), EndedTrace()]
    for trace in traces:
        exporter.put(trace, LIMITS)
    assert (store.traces, [trace.outcome() for trace in traces]) == (traces, ["stored"] * 2)


@pytest.mark.parametrize("number", range(4))
def test_threads_that_begin_together_begin_one_worker(store, number):
    """Many first traces at once begin one worker."""
    exporter, barrier, traces = Exporter(store), threading.Barrier(8), [EndedTrace() for _ in range(8)]

    def put(trace):
        barrier.wait(60)
        exporter.put(trace, LIMITS)

    before = [thread for thread in threading.enumerate() if thread.name == "dspy-mlflow-export"]
    threads = [threading.Thread(target=put, args=(trace,)) for trace in traces]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    after = [thread for thread in threading.enumerate() if thread.name == "dspy-mlflow-export"]
    assert len(set(after) - set(before)) == 1
    exporter.close(60)
    assert sorted(map(id, store.traces)) == sorted(map(id, traces))


def test_errors_say_what_they_mean():
    """An error that is none of MLflow's is the batch's; credentials stay out of every message."""
    error = errors.failure(ValueError("at http://user:pw@host/"))
    assert isinstance(error, RefusedError)
    assert str(error) == "ValueError('at http://host/')"
