"""Spooling: a trace that its store does not take waits in the spool, and is delivered once when the store is back."""

from __future__ import annotations

import json
import threading

import attrs
import mlflow
import pytest
from ended import NOWHERE, EndedTrace, FakeStore, spans_of_a_trace, stored_ids, wait_until
from mlflow.entities import Span, TraceInfo, TraceLocation, TraceState
from mlflow.entities.model_registry import PromptVersion
from mlflow.tracing.attachments import Attachment
from spooled_traces import AwayStore, Clock, limits_of, status_of, waiting_ids

from dspy_mlflow_callbacks.export import exporter as exporter_module
from dspy_mlflow_callbacks.export import redelivery
from dspy_mlflow_callbacks.export.errors import RefusedError, StoreAwayError
from dspy_mlflow_callbacks.export.exporter import Exporter
from dspy_mlflow_callbacks.export.spool import destinations, spools
from dspy_mlflow_callbacks.export.spool.contents import entry_of, row_of
from dspy_mlflow_callbacks.export.spool.destinations import from_text, lasting
from dspy_mlflow_callbacks.export.spool.errors import SpoolError
from dspy_mlflow_callbacks.export.spool.reading import all_rows
from dspy_mlflow_callbacks.export.spool.settings import FSYNC, SpoolSettings
from dspy_mlflow_callbacks.export.spool.spools import Spools
from dspy_mlflow_callbacks.export.tracking_store import deliver
from dspy_mlflow_callbacks.export.waiting import Destination, Limits


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "spool"


@pytest.fixture
def make():
    """Make exporters that end with the test."""
    made = []

    def make(store):
        made.append(Exporter(store))
        return made[-1]

    yield make
    for exporter in made:
        exporter.close(0.0)


@pytest.fixture(params=[False, True], ids=["spooled when away", "durable"])
def limits(request, folder):
    return limits_of(folder, durable=request.param)


class Silent(EndedTrace):
    def prepared(self):
        return None


def put_all(exporter, traces, limits):
    for trace in traces:
        exporter.put(trace, limits)
    return traces


def ids_of(traces):
    return sorted(trace.id for trace in traces)


def delivered(store):
    """Return the ids that a store has, of spooled and other traces."""
    return sorted(getattr(trace, "id", None) or trace.row.trace_id for trace in store.traces)


@pytest.mark.warns
def test_traces_of_a_store_that_is_away_wait_in_the_spool(make, folder, limits, warned):
    """After some failures memory is empty, each trace is told where it is, and one line says so."""
    exporter = make(AwayStore())
    traces = put_all(exporter, [EndedTrace() for _ in range(5)], limits)
    assert [trace.outcome() for trace in traces] == ["spooled"] * 5
    assert (exporter.queued, sorted(waiting_ids(folder))) == (0, ids_of(traces))
    assert warned.messages == ["Traces are not stored in nowhere://store: away. They are kept in the spool."]


@pytest.mark.warns
def test_they_are_delivered_when_the_store_is_back(make, folder, limits):
    """The same process delivers them, asking with one trace first and with more as they are taken, each once."""
    store = AwayStore()
    exporter = make(store)
    traces = put_all(exporter, [EndedTrace() for _ in range(20)], limits)
    assert {trace.outcome() for trace in traces} == {"spooled"}
    store.is_away.clear()
    wait_until(lambda: len(store.traces) == 20)
    wait_until(lambda: waiting_ids(folder) == [])
    assert delivered(store) == ids_of(traces)
    assert [len(batch) for batch in store.batches] == [1, 2, 4, 8, 5]


@pytest.mark.warns
def test_another_process_delivers_them(make, folder, limits):
    """What a process has left in the spool is delivered by the next one that has a trace to store, before it ends."""
    first = make(AwayStore())
    left = put_all(first, [EndedTrace() for _ in range(8)], limits)
    first.close(5.0)
    assert {trace.outcome() for trace in left} == {"spooled"}
    store = FakeStore()
    second = make(store)
    own = put_all(second, [EndedTrace()], limits)
    second.close(60.0)
    assert delivered(store) == ids_of([*left, *own])
    assert waiting_ids(folder) == []


@pytest.mark.warns
def test_a_store_that_never_answers_does_not_keep_the_program(make, folder, limits):
    """At the end what is still in memory goes to the spool, the batch that is under way too."""
    store = FakeStore(answers=False)
    exporter = make(store)
    traces = put_all(exporter, [EndedTrace() for _ in range(250)], limits)
    assert store.is_asked.wait(60)
    exporter.close(2.0)
    assert {trace.outcome() for trace in traces} == {"spooled"}
    assert sorted(waiting_ids(folder)) == ids_of(traces)
    store.may_answer.set()


@pytest.mark.warns
def test_what_the_spool_does_not_take_in_time_is_given_up(make, folder, limits):
    """With no time at the end traces that nobody has taken are lost, unless they are in the spool already."""
    store = FakeStore(answers=False)
    exporter = make(store)
    traces = put_all(exporter, [EndedTrace() for _ in range(3)], limits)
    exporter.close(0.0)
    assert {trace.outcome() for trace in traces} == {"failed"}
    assert len(waiting_ids(folder)) == (3 if limits.is_durable else 0)
    store.may_answer.set()


@pytest.mark.warns
@pytest.mark.parametrize("on_full", ["block", "drop"])
def test_a_full_buffer_overflows_into_the_spool(make, folder, on_full):
    """A trace for which there is no room goes to the spool at once: its call neither waits nor loses it."""
    store = FakeStore(answers=False)
    exporter = make(store)
    limits = limits_of(folder, max_traces=2, on_full=on_full, max_block_s=3600.0)
    traces = put_all(exporter, [EndedTrace() for _ in range(6)], limits)
    assert [trace.outcome() for trace in traces[2:]] == ["spooled"] * 4
    store.may_answer.set()
    wait_until(lambda: delivered(store) == ids_of(traces))


def test_what_does_not_leave_needs_no_room(make, folder):
    """A trace that a tail sampler drops goes nowhere, where the buffer is full as well."""
    store = FakeStore(answers=False)
    traces = put_all(make(store), [EndedTrace(), Silent()], limits_of(folder, max_traces=1))
    assert (traces[1].outcome(), waiting_ids(folder)) == ("dropped", [])
    store.may_answer.set()
    assert traces[0].outcome() == "stored"


def test_a_full_buffer_leaves_durable_traces_in_the_spool(make, folder):
    """A durable trace for which there is no room in memory is there already."""
    store = FakeStore(answers=False)
    exporter = make(store)
    traces = put_all(exporter, [EndedTrace() for _ in range(4)], limits_of(folder, max_traces=2, durable=True))
    assert [trace.outcome() for trace in traces[2:]] == ["spooled"] * 2
    store.may_answer.set()
    wait_until(lambda: delivered(store) == ids_of(traces))


@pytest.mark.warns
def test_without_a_spool_that_can_be_used_memory_is_all(make, tmp_path, warned):
    """Where the folder cannot be made one line says so, and a full buffer blocks, drops and counts as without it."""
    (tmp_path / "file").write_text("")
    store = FakeStore(answers=False)
    exporter = make(store)
    limits = limits_of(tmp_path / "file", max_traces=2, max_block_s=0.01)
    traces = put_all(exporter, [EndedTrace() for _ in range(4)], limits)
    assert [trace.outcome() for trace in traces[2:]] == ["dropped"] * 2
    assert len(warned.messages) == 2
    assert warned.messages[0].startswith(f"The spool in {tmp_path / 'file'} cannot be used: ")
    assert warned.messages[1].startswith("The buffer is full: ")
    store.may_answer.set()
    assert [trace.outcome() for trace in traces[:2]] == ["stored"] * 2


@pytest.mark.warns
def test_room_that_comes_is_used(make, tmp_path):
    """A trace that no spool takes waits for room, and is stored when there is some."""
    (tmp_path / "file").write_text("")
    store = FakeStore(answers=False)
    exporter = make(store)
    limits = limits_of(tmp_path / "file", max_traces=1, max_block_s=60.0)
    first, second = EndedTrace(), EndedTrace()
    exporter.put(first, limits)
    thread = threading.Thread(target=exporter.put, args=(second, limits))
    thread.start()
    wait_until(lambda: exporter._buffer._left._waiters)
    store.may_answer.set()
    thread.join(60)
    assert (first.outcome(), second.outcome()) == ("stored", "stored")


@pytest.mark.warns
def test_a_full_buffer_drops_where_nothing_else_is_allowed(make, tmp_path):
    """Without a usable spool, `drop` does not let a call wait."""
    (tmp_path / "file").write_text("")
    store = FakeStore(answers=False)
    exporter = make(store)
    limits = limits_of(tmp_path / "file", max_traces=1, on_full="drop", max_block_s=3600.0)
    traces = put_all(exporter, [EndedTrace() for _ in range(2)], limits)
    assert traces[1].outcome() == "dropped"
    store.may_answer.set()


@pytest.mark.warns
def test_a_spool_is_tried_again(make, tmp_path, monkeypatch):
    """A spool that could not be used is used when it can be, and not asked at each trace until then."""
    monkeypatch.setattr(spools, "AGAIN_SECONDS", 0.0)
    file = tmp_path / "file"
    file.write_text("")
    exporter = make(AwayStore())
    limits = limits_of(file)
    traces = put_all(exporter, [EndedTrace()], limits)
    wait_until(lambda: exporter._spools._off_until)
    file.unlink()
    traces += put_all(exporter, [EndedTrace()], limits)
    assert [trace.outcome() for trace in traces] == ["spooled"] * 2


@pytest.mark.warns
def test_a_spool_that_cannot_be_used_is_left_alone_for_a_while(folder, warned):
    """After a spool has failed nobody waits for it, until it is time to try it again."""
    clock = Clock()
    kept = Spools(clock)
    spool = kept.open(SpoolSettings(folder=str(folder)))
    asked = []

    def fails():
        asked.append(clock.now)
        raise SpoolError("the disk is full")

    for now in (0.0, spools.AGAIN_SECONDS - 1.0, spools.AGAIN_SECONDS):
        clock.now = now
        assert kept.look(spool, fails) is None
    assert asked == [0.0, spools.AGAIN_SECONDS]
    assert warned.messages == [
        f"The spool in {folder} cannot be used: the disk is full. Traces wait in memory only.",
    ]


def test_a_spool_waits_for_the_disk_if_a_callback_asks_for_it(folder):
    """Of callbacks with one spool one is enough that asks for `fsync`."""
    kept = Spools()
    settings = SpoolSettings(folder=str(folder))
    said = [
        kept.open(attrs.evolve(settings, durable=durable)).database.fsync for durable in (False, True, FSYNC, False)
    ]
    assert said == [False, False, True, True]


def test_a_durable_trace_is_in_the_spool_until_it_is_stored(make, folder):
    """With `durable` a trace is on disk when its call returns, held by this process, and gone when it is stored."""
    store = FakeStore(answers=False)
    exporter = make(store)
    traces = put_all(exporter, [EndedTrace() for _ in range(3)], limits_of(folder, durable=True))
    assert waiting_ids(folder) == [trace.id for trace in traces]
    store.may_answer.set()
    assert exporter.flush(60)
    wait_until(lambda: waiting_ids(folder) == [])
    assert delivered(store) == ids_of(traces)


@pytest.mark.warns
def test_a_trace_that_is_stored_at_once_is_durable_too(make, folder):
    """A trace that its call stores itself is in the spool before the call returns, if its store is away."""
    exporter = make(AwayStore())
    trace = EndedTrace()
    exporter.deliver_now(trace, limits_of(folder, durable=True))
    assert waiting_ids(folder) == [trace.id]


@pytest.mark.warns
def test_traces_after_the_end_go_to_the_spool(make, folder):
    """A trace that ends after the exporter was closed waits in the spool where its store is away."""
    exporter = make(AwayStore())
    exporter.close(0.0)
    trace = EndedTrace()
    exporter.put(trace, limits_of(folder))
    assert (trace.outcome(), waiting_ids(folder)) == ("spooled", [trace.id])


@pytest.mark.warns
def test_what_does_not_leave_is_not_spooled(make, folder, limits):
    """A trace that a tail sampler drops is in no spool."""
    exporter = make(AwayStore())
    traces = put_all(exporter, [Silent(), EndedTrace()], limits)
    assert [trace.outcome() for trace in traces] == ["dropped", "spooled"]
    assert waiting_ids(folder) == [traces[1].id]


@pytest.mark.warns
@pytest.mark.parametrize("is_whole", [False, True], ids=["one bad trace", "an experiment that is gone"])
def test_refused_traces_become_dead_letters(make, folder, limits, is_whole):
    """What its store refuses for good is kept with the reason; one bad trace does not take the others along."""
    store = FakeStore()
    traces = [EndedTrace() for _ in range(10)]
    bad = traces if is_whole else traces[3:4]
    store.fails = lambda batch: (
        RefusedError("no such field", is_for_all=is_whole)
        if {entry.leaves.trace_id for entry in batch.entries} & {trace.id for trace in bad}
        else None
    )
    exporter = make(store)
    put_all(exporter, traces, limits)
    assert exporter.flush(60)
    assert [trace.outcome() for trace in traces] == ["rejected" if trace in bad else "stored" for trace in traces]
    wait_until(lambda: waiting_ids(folder) == [])
    (group,) = status_of(folder).dead_letters
    assert (group.traces, group.reason) == (len(bad), "no such field")


@pytest.mark.warns
def test_what_is_refused_out_of_the_spool_is_a_dead_letter_too(make, folder):
    """A trace that waited and is refused then goes to the dead letters, and the others are stored."""
    store = AwayStore()
    exporter = make(store)
    traces = put_all(exporter, [EndedTrace() for _ in range(8)], limits_of(folder))
    assert {trace.outcome() for trace in traces} == {"spooled"}
    store.fails = lambda batch: (
        RefusedError("bad") if traces[2].id in [entry.leaves.trace_id for entry in batch.entries] else None
    )
    store.is_away.clear()
    wait_until(lambda: status_of(folder).traces == 0)
    assert delivered(store) == ids_of([*traces[:2], *traces[3:]])
    assert status_of(folder).dead_traces == 1


@pytest.mark.warns
def test_a_spooled_trace_over_which_the_store_fails_does_not_hold_up_others(make, folder, monkeypatch):
    """A trace over which alone the store fails again and again goes behind the others, and to the dead letters."""
    store = AwayStore()
    exporter = make(store)
    traces = put_all(exporter, [EndedTrace() for _ in range(4)], limits_of(folder))
    assert {trace.outcome() for trace in traces} == {"spooled"}
    store.fails = lambda batch: (
        StoreAwayError("oh", may_be_the_batch=True)
        if traces[0].id in [entry.leaves.trace_id for entry in batch.entries]
        else None
    )
    monkeypatch.setattr("dspy_mlflow_callbacks.export.lanes._LONGEST_PAUSE_SECONDS", 0.01)
    store.is_away.clear()
    wait_until(lambda: status_of(folder).dead_traces == 1)
    assert (delivered(store), status_of(folder).traces) == (ids_of(traces[1:]), 0)


@pytest.mark.warns
def test_a_spool_under_load_has_its_turn(make, folder, monkeypatch):
    """While traces come without a pause, what waits in the spool is delivered all the same."""
    monkeypatch.setattr("dspy_mlflow_callbacks.export.worker._REDELIVERS_AFTER_SECONDS", 0.0)
    first = make(AwayStore())
    left = put_all(first, [EndedTrace() for _ in range(3)], limits_of(folder))
    first.close(5.0)
    store = FakeStore()
    second = make(store)
    store.fails = lambda batch: second.put(EndedTrace(), limits_of(folder)) if len(store.traces) < 30 else None
    second.put(EndedTrace(), limits_of(folder))
    wait_until(lambda: set(delivered(store)) >= set(ids_of(left)))


def test_leases_are_renewed(make, folder, monkeypatch):
    """A process that holds traces for long renews its hold."""
    monkeypatch.setattr(redelivery, "LEASE_SECONDS", 0.0)
    store = FakeStore()
    exporter = make(store)
    limits = limits_of(folder, durable=True)
    put_all(exporter, [EndedTrace(), EndedTrace()], limits)
    assert exporter.flush(60)
    renewed = []
    (spool,) = exporter._spools.known()
    monkeypatch.setattr(spool, "renew", lambda: renewed.append(True))
    put_all(exporter, [EndedTrace()], limits)
    wait_until(lambda: renewed)


def test_no_file_is_made_to_renew_a_hold(folder):
    """A spool into which nothing was written is not begun for the sake of a lease."""
    kept = Spools()
    spool = kept.open(SpoolSettings(folder=str(folder)))
    kept.renew()
    assert not spool.exists()


# --- what is in a row ---


def spooled_and_back(trace):
    """Return an ended trace's entry as the spool gives it back."""
    from dspy_mlflow_callbacks.export.batch import Entry

    return entry_of(row_of(Entry(0, trace, trace.size, trace.prepared()), 1.0))


def said_by(span):
    """Return all that a span says, with the values behind its attributes' JSON texts."""
    said = Span(span).to_dict()
    return {**said, "attributes": {key: json.loads(text) for key, text in said["attributes"].items()}}


SAID = {"mlflow.spanInputs": {"q": ["ü", 1, 1.5, None, True, {"a": []}]}, "session.id": "s1"}


@pytest.mark.parametrize("uri", ["sqlite:////tmp/a.db", "http://127.0.0.1:5000"])
def test_a_trace_is_whole_after_the_spool(uri):
    """Spans, facts, attachments and prompts come out as they went in."""
    attachment = Attachment(content_type="image/png", content_bytes=bytes(range(256)))
    trace = EndedTrace(Destination(tracking_uri=uri, experiment_id="1"), spans=spans_of_a_trace(4, **SAID))
    info = TraceInfo(
        trace_id=trace.id,
        trace_location=TraceLocation.from_experiment_id("1"),
        request_time=1_700_000_000_123,
        execution_duration=17,
        state=TraceState.OK,
        client_request_id="mine",
        request_preview="q",
        trace_metadata={"mlflow.modelId": "m-1"},
        tags={"team": "blue"},
    )
    trace.extras |= {
        "info": info,
        "attachments": {attachment.id: attachment},
        "prompts": [PromptVersion("greeting", 3, "Hello")],
    }
    entry = spooled_and_back(trace)
    back = entry.trace.prepared()
    assert [said_by(span) for span in back.spans] == [said_by(span) for span in trace.spans]
    assert back.info.to_dict() == info.to_dict()
    (kept,) = back.attachments.values()
    assert (list(back.attachments), kept.content_type, kept.content_bytes) == (
        [attachment.id],
        "image/png",
        bytes(range(256)),
    )
    assert [(prompt.name, prompt.version) for prompt in back.prompts] == [("greeting", 3)]
    assert (entry.trace.destination, entry.spans, entry.is_plain) == (trace.destination, 4, False)


def test_spooled_traces_are_stored_like_others(tmp_path, make, folder):
    """What a database gets out of the spool, it would have got at once: the same spans, tags and session."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = mlflow.MlflowClient(uri)
    destination = Destination(tracking_uri=uri, experiment_id=client.create_experiment("x"))
    run_id = client.create_run(destination.experiment_id).info.run_id
    destination = attrs.evolve(destination, run_id=run_id)
    direct, spooled = (EndedTrace(destination, spans=spans_of_a_trace(3, **SAID)) for _ in range(2))
    store = AwayStore(deliver)
    exporter = make(store)
    store.is_away.clear()
    exporter.put(direct, limits_of(folder))
    assert exporter.flush(60)
    exporter.put(spooled, limits_of(folder, max_traces=1, max_bytes=1))
    exporter.close(60)
    assert stored_ids(destination) == ids_of([direct, spooled])
    one, other = (client.get_trace(trace.id) for trace in (direct, spooled))
    assert [(span.name, span.inputs, span.status) for span in one.data.spans] == [
        (span.name, span.inputs, span.status) for span in other.data.spans
    ]
    assert one.info.tags.keys() == other.info.tags.keys()
    assert one.info.trace_metadata["mlflow.trace.session"] == other.info.trace_metadata["mlflow.trace.session"] == "s1"


@pytest.mark.parametrize(
    ("uri", "kept"),
    [
        ("http://user:pw@host:5000", "http://host:5000"),
        ("postgresql://u:p@h/db?sslmode=require&password=x&sslkey=y", "postgresql://h/db?sslmode=require"),
        ("sqlite:////tmp/a.db", "sqlite:////tmp/a.db"),
        ("sqlite+pysqlite:////tmp/a.db?timeout=9", "sqlite+pysqlite:////tmp/a.db?timeout=9"),
        ("nowhere://store", "nowhere://store"),
    ],
)
def test_destinations_have_no_credentials(uri, kept):
    """The spool keeps where a trace goes, without user names, passwords and keys."""
    assert lasting(uri) == kept


def test_a_relative_file_is_named_in_full(tmp_path, monkeypatch):
    """A database in the program's folder is found by a process that is elsewhere."""
    monkeypatch.chdir(tmp_path)
    assert lasting("sqlite:///mlflow.db") == f"sqlite:///{tmp_path}/mlflow.db"


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///:memory:", "sqlite:///file::memory:?cache=shared", "sqlite:"])
def test_a_store_in_memory_has_no_spool(uri):
    """What only this process has cannot be delivered by another one."""
    with pytest.raises(SpoolError, match="in this process's memory"):
        lasting(uri)


IN_MEMORY = attrs.evolve(NOWHERE, tracking_uri="sqlite://")


@pytest.mark.warns
def test_traces_of_a_store_in_memory_wait_in_memory(make, limits, warned):
    """A trace that cannot wait in the spool is held in memory, and one line says why."""
    exporter = make(AwayStore())
    traces = put_all(exporter, [EndedTrace(IN_MEMORY)], limits)
    wait_until(lambda: len(warned.messages) == 2)
    assert (exporter.queued, traces[0].told) == (1, [])
    assert "A trace cannot wait in the spool: the store is in this process's memory" in warned.messages


@pytest.mark.warns
def test_a_refused_trace_that_cannot_be_spooled_has_failed(make, folder, limits):
    """What its store refuses, and what no spool can keep, is no dead letter."""
    store = FakeStore()
    store.fails = lambda batch: RefusedError("no")
    (trace,) = put_all(make(store), [EndedTrace(IN_MEMORY)], limits)
    assert (trace.outcome(), status_of(folder).dead_traces) == ("failed", 0)


def test_credentials_are_this_process_s(monkeypatch):
    """A destination comes back with the credentials that this process or MLflow's configuration has for it."""
    destination = Destination(tracking_uri="http://a:b@one:1", experiment_id="1")
    text = destinations.as_text(destination)
    assert "a:b" not in text
    assert from_text(text) == destination
    monkeypatch.setattr(destinations, "_FULL", {})
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "http://c:d@one:1")
    assert from_text(text).tracking_uri == "http://c:d@one:1"
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "http://two:1")
    assert from_text(text).tracking_uri == "http://one:1"
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "sqlite://")
    assert from_text(text).tracking_uri == "http://one:1"


@pytest.mark.parametrize("text", ["", "[]", '{"uri": 1}', "7"])
def test_a_destination_that_is_none_is_an_error(text):
    """A text that names no destination cannot be read."""
    with pytest.raises(SpoolError, match="a destination cannot be read"):
        from_text(text)


@pytest.mark.warns
def test_what_cannot_be_read_is_a_dead_letter(make, folder):
    """A row that holds no trace is set aside with the reason, and the others are delivered."""
    store = AwayStore()
    exporter = make(store)
    traces = put_all(exporter, [EndedTrace() for _ in range(2)], limits_of(folder))
    assert {trace.outcome() for trace in traces} == {"spooled"}
    (spool,) = exporter._spools.known()
    row = attrs.evolve(all_rows(SpoolSettings(folder=str(folder)))[0], id=0, request=b"\xff\xff", trace_id="tr-bad")
    spool.add(row, is_mine=False)
    spool.add(attrs.evolve(row, destination="{}"), is_mine=False)
    store.is_away.clear()
    wait_until(lambda: status_of(folder).dead_traces == 1)
    wait_until(lambda: delivered(store) == ids_of(traces))
    assert "a trace cannot be read" in status_of(folder).dead_letters[0].reason
    assert waiting_ids(folder) == ["tr-bad"]


def test_without_a_spool_nothing_changes():
    """Limits name no spool by themselves."""
    assert (Limits().spool, Limits().is_durable) == (None, False)


def test_the_rescue_waits_for_what_is_being_prepared(make, folder, monkeypatch):
    """A trace whose payload steps run when the program ends is spooled once they are through, in time."""
    monkeypatch.setattr(exporter_module, "_BREATH_SECONDS", 0.0)
    begun, may_go_on = threading.Event(), threading.Event()

    class Slow(EndedTrace):
        def prepared(self):
            begun.set()
            assert may_go_on.wait(60)
            return super().prepared()

    store = FakeStore(answers=False)
    exporter = make(store)
    trace = Slow()
    exporter.put(trace, limits_of(folder))
    assert begun.wait(60)
    thread = threading.Thread(target=exporter.close, args=(2.0,))
    thread.start()
    wait_until(lambda: exporter._buffer.is_ending and not exporter._buffer.is_hurried)
    may_go_on.set()
    thread.join(60)
    assert (trace.outcome(), waiting_ids(folder)) == ("spooled", [trace.id])
    store.may_answer.set()


def test_a_fork_leaves_the_spool_to_its_parent(make, folder):
    """A fork has spools of its own; the parent goes on with its."""
    exporter = make(FakeStore())
    exporter.put(EndedTrace(), limits_of(folder, durable=True))
    assert exporter.flush(60)
    exporter.before_fork()
    exporter.after_fork_in_parent()
    spools = exporter._spools
    assert len(spools.known()) == 1
    spools.before_fork()
    spools.after_fork_in_child()
    assert spools.known() == []


@pytest.mark.warns
def test_what_cannot_be_used_is_left_alone(make, tmp_path, warned):
    """While a spool cannot be used nothing is encoded for it."""
    (tmp_path / "file").write_text("")
    store = FakeStore()
    store.fails = lambda batch: RefusedError("no")
    exporter = make(store)
    limits = limits_of(tmp_path / "file", durable=True)
    traces = put_all(exporter, [EndedTrace() for _ in range(3)], limits)
    assert [trace.outcome() for trace in traces] == ["failed"] * 3
