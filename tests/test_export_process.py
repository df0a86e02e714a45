"""The exporter process: when it is started, what it stores, and that nothing is lost or doubled when it ends."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import attrs
import mlflow
import pytest
from ended import EndedTrace, is_alive, new_destination, spans_of_a_trace, stored_ids, wait_until
from mlflow.tracing.client import TracingClient

from dspy_mlflow_callbacks.export import exporter_process
from dspy_mlflow_callbacks.export import process as exporter
from dspy_mlflow_callbacks.export.batch import Batch, Entry
from dspy_mlflow_callbacks.export.delivery import HOLDING, MANY_TRACES, SENDING, WRITING, Delivery
from dspy_mlflow_callbacks.export.errors import RefusedError, StoreAwayError
from dspy_mlflow_callbacks.export.exporter_process import ExporterProcess, ProcessEndedError
from dspy_mlflow_callbacks.export.frames import packed, read_frame


class Clock:
    """A clock that goes when it is told to."""

    now = 0.0

    def __call__(self):
        return self.now


class Written(list):
    """Keeps the batches that the thread writes."""

    def __call__(self, batch):
        self.append(batch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def destination(folder, request):
    return new_destination(f"sqlite:///{folder}/mlflow.db", request.node.name)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def written():
    return Written()


@pytest.fixture
def delivery(clock, written):
    delivery = Delivery(written, clock)
    yield delivery
    delivery.close()


@pytest.fixture(scope="module")
def process(folder):
    """Return a process that many tests use: one takes seconds to start."""
    process = ExporterProcess(f"sqlite:///{folder}/mlflow.db")
    wait_until(process.is_ready)
    yield process
    process.close()


def batch_of(*traces):
    entries = [Entry(number, trace, trace.size, trace.prepared()) for number, trace in enumerate(traces)]
    return Batch(traces[0].destination, entries)


def start(delivery, clock, destination):
    """Let a backlog last, and wait until the process is there."""
    delivery.note_backlog(destination, MANY_TRACES + 1)
    clock.now += 1.5
    delivery.note_backlog(destination, MANY_TRACES + 1)
    wait_until(lambda: delivery.pace(destination) is SENDING)
    return delivery._helper._process


def test_a_backlog_that_lasts_starts_the_process(delivery, written, clock, destination):
    """The process is started once many traces have waited for a second; until it is there, the thread holds back."""
    delivery.note_backlog(destination, MANY_TRACES)
    delivery.note_backlog(destination, MANY_TRACES + 1)
    clock.now = 0.5
    delivery.note_backlog(destination, MANY_TRACES)  # a burst, and gone
    delivery.note_backlog(destination, MANY_TRACES + 1)
    clock.now = 1.4
    delivery.note_backlog(destination, MANY_TRACES + 1)
    assert delivery._helper._process is None
    delivery.deliver(batch_of(EndedTrace(destination)))
    assert (len(written), delivery.pace(destination)) == (1, HOLDING)
    start(delivery, clock, destination)
    traces = [EndedTrace(destination) for _ in range(3)]
    delivery.deliver(batch_of(*traces))
    assert len(written) == 1
    assert stored_ids(destination) == sorted(trace.id for trace in traces)


def test_the_thread_stores_what_spans_cannot_carry(delivery, written, clock, destination):
    """A trace with more than spans is stored by the thread, process or not."""
    start(delivery, clock, destination)
    delivery.deliver(batch_of(EndedTrace(destination, prompts=["p"])))
    assert len(written) == 1


def test_an_idle_process_is_ended(delivery, clock, destination):
    """A process that has had nothing to do for a minute ends, and gives its memory back."""
    assert delivery.rest() is None
    pid = start(delivery, clock, destination).pid
    assert delivery.rest() == 60.0
    clock.now += 59.0
    assert delivery.rest() == 1.0
    clock.now += 1.0
    assert delivery.rest() is None
    assert not is_alive(pid)
    assert delivery.pace(destination) is WRITING


def test_a_process_that_dies_is_replaced_once(delivery, written, clock, destination):
    """What a killed process has not acknowledged the thread stores; after two deaths no other is started."""
    for number in (1, 2):
        process = start(delivery, clock, destination)
        os.kill(process.pid, signal.SIGKILL)
        delivery.deliver(batch_of(EndedTrace(destination)))
        assert (len(written), delivery._helper._process) == (number, None)
    delivery.note_backlog(destination, MANY_TRACES + 1)
    assert delivery._helper._process is None


def test_a_process_that_dies_while_it_starts_is_not_waited_for(delivery, written, clock, destination):
    """A process that was killed before it was ready is given up; the thread writes."""
    delivery.note_backlog(destination, MANY_TRACES + 1)
    clock.now = 1.5
    delivery.note_backlog(destination, MANY_TRACES + 1)
    os.kill(delivery._helper._process.pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(delivery._helper._process.pid))
    delivery.deliver(batch_of(EndedTrace(destination)))
    assert (len(written), delivery._helper._process) == (1, None)


@pytest.mark.parametrize("executable", ["/bin/false", "/no/such/file"])
def test_where_no_process_can_be_had_the_thread_writes(clock, destination, monkeypatch, executable):
    """A process that does not come up is tried twice; the thread writes all the while."""
    monkeypatch.setattr(sys, "executable", executable)
    written = Written()
    delivery = Delivery(written, clock)
    delivery.note_backlog(destination, MANY_TRACES + 1)
    clock.now = 1.5

    def is_given_up():
        clock.now += 1.5
        delivery.note_backlog(destination, MANY_TRACES + 1)
        delivery.deliver(batch_of(EndedTrace(destination)))
        return delivery._helper._deaths == 2

    wait_until(is_given_up)
    assert written
    assert delivery._helper._process is None


@pytest.mark.parametrize(
    "uri", ["sqlite://", "sqlite:///:memory:", "http://127.0.0.1:9", "file:mlruns", "sqlite:////dev/null/x.db"]
)
@pytest.mark.usefixtures("own_folder")
def test_no_process_writes_to_what_it_cannot_reach(delivery, clock, uri, destination, monkeypatch):
    """A store in memory, a server, a store of files and one that cannot be opened have no process."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    elsewhere = attrs.evolve(destination, tracking_uri=uri)
    delivery.note_backlog(elsewhere, MANY_TRACES + 1)
    clock.now = 1.5
    delivery.note_backlog(elsewhere, MANY_TRACES + 1)
    assert delivery._helper._process is None
    assert not delivery._helper.serves(uri)


def test_an_exporter_process_has_none_of_its_own(monkeypatch):
    """In an exporter process, in a frozen program and without Python, none is started."""
    assert exporter_process.can_start()
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert not exporter_process.can_start()
    monkeypatch.delattr(sys, "frozen")
    monkeypatch.setenv(exporter_process.IS_EXPORTER, "1")
    assert not exporter_process.can_start()


def test_a_store_in_memory_is_left_to_the_thread(delivery, written, clock, destination):
    """While there is a process for one store, another that it cannot reach is written by the thread."""
    start(delivery, clock, destination)
    memory = attrs.evolve(destination, tracking_uri="sqlite://")
    delivery.deliver(batch_of(EndedTrace(memory)))
    assert (len(written), delivery.pace(memory)) == (1, WRITING)


def test_what_the_process_stores_is_whole(process, destination, folder):
    """The store has of a trace from the process what it has of one from the thread, and its run."""
    run_id = mlflow.MlflowClient(destination.tracking_uri).create_run(destination.experiment_id).info.run_id
    linked = attrs.evolve(destination, run_id=run_id)
    attributes = {"mlflow.spanInputs": {"q": ["é", 1, None]}, "mlflow.traceTag.team": "blue", "session.id": "s1"}
    trace = EndedTrace(linked, spans=spans_of_a_trace(2, **attributes))
    process.deliver(batch_of(trace, EndedTrace(linked)), destination.tracking_uri)
    stored = mlflow.MlflowClient(destination.tracking_uri).get_trace(trace.id)
    assert [(span.name, span.inputs) for span in stored.data.spans] == [
        ("span 0", {"q": ["é", 1, None]}),
        ("span 1", {"q": ["é", 1, None]}),
    ]
    assert (stored.info.tags["team"], stored.info.trace_metadata["mlflow.trace.session"]) == ("blue", "s1")
    assert len(stored_ids(linked)) == 2


def test_the_process_says_what_the_store_says(process, destination):
    """A refusal and an error of the database come back as they would in the thread."""
    lost = attrs.evolve(destination, experiment_id="999")
    with pytest.raises(RefusedError, match="No Experiment with id=999") as refused:
        process.deliver(batch_of(EndedTrace(lost)), destination.tracking_uri)
    assert refused.value.is_for_all
    engine = TracingClient(destination.tracking_uri).store.engine
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE spans RENAME TO gone")
    try:
        with pytest.raises(StoreAwayError):
            process.deliver(batch_of(EndedTrace(destination)), destination.tracking_uri)
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE gone RENAME TO spans")


def test_a_process_that_does_not_answer_is_given_up(folder, destination):
    """A process that hangs is told apart from one that is slow by a time limit, and ended."""
    process = ExporterProcess(destination.tracking_uri, answer_s=60.0)
    wait_until(process.is_ready)
    os.kill(process.pid, signal.SIGSTOP)
    process._answer_s = 0.2
    large = EndedTrace(destination, spans=spans_of_a_trace(1, text="x" * 1_000_000))
    for trace in (EndedTrace(destination), large):  # the second does not even find room in the pipe
        with pytest.raises(ProcessEndedError):
            process.deliver(batch_of(trace), destination.tracking_uri)
    process.kill()
    assert not is_alive(process.pid)


def test_a_process_that_does_not_end_is_killed(destination, monkeypatch):
    """A process that hangs when it should end is killed after some seconds."""
    monkeypatch.setattr(exporter_process, "_END_SECONDS", 0.1)
    process = ExporterProcess(destination.tracking_uri)
    wait_until(process.is_ready)
    os.kill(process.pid, signal.SIGSTOP)
    process.close()
    assert not is_alive(process.pid)


def test_a_process_that_is_not_ready_is_not_waited_for(destination):
    """A process that is still starting when the program ends is ended at once: it was given nothing."""
    process = ExporterProcess(destination.tracking_uri)
    process.close()
    assert process._process.returncode == -signal.SIGKILL


def test_a_process_that_is_dead_is_noticed(destination):
    """What is sent to a process that has been killed raises at once."""
    process = ExporterProcess(destination.tracking_uri)
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(process.pid))
    with pytest.raises(ProcessEndedError):
        process.deliver(batch_of(EndedTrace(destination)), destination.tracking_uri)
    process.kill()


def test_a_program_that_does_not_listen_ends_the_process(destination):
    """A process whose answer nobody hears ends without a word."""
    command = [sys.executable, "-m", exporter.__name__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        child.stdout.close()
        child.stdin.write(packed({"number": 0, "open": destination.tracking_uri}))
        child.stdin.flush()
        assert (child.wait(100), child.stderr.read()) == (0, b"")


def test_a_frame_that_is_cut_off_is_the_end():
    """A frame is read whole or not at all."""
    frame = packed({"number": 1}, b"body")
    assert read_frame(io.BytesIO(frame).read) == ({"number": 1}, b"body")
    assert [read_frame(io.BytesIO(frame[:size]).read) for size in (0, 5, 10, len(frame) - 1)] == [None] * 4


def test_a_path_that_is_relative_means_the_same_file(tmp_path, monkeypatch, delivery, clock):
    """A store with a relative path is the same for the process, wherever the program has gone since."""
    monkeypatch.chdir(tmp_path)
    destination = new_destination("sqlite:///relative.db", "relative")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    start(delivery, clock, destination)
    trace = EndedTrace(destination)
    delivery.deliver(batch_of(trace))
    assert stored_ids(destination) == [trace.id]
    assert sorted(path.name for path in tmp_path.glob("**/*.db")) == ["relative.db"]


PROGRAM = """
import os, sys
sys.path.insert(0, {tests!r})
from dspy_mlflow_callbacks.export.exporter_process import ExporterProcess
from ended import wait_until
if __name__ != "__main__":
    raise SystemExit("run twice")
process = ExporterProcess({uri!r})
wait_until(process.is_ready)
print(process.pid, flush=True)
{rest}
"""


@pytest.mark.parametrize(
    "rest",
    [
        "os.kill(os.getpid(), 9)",
        "if os.fork(): os.kill(os.getpid(), 9)\nelse: sys.stdin.read()",
    ],
    ids=["killed", "killed, and a fork of it lives on"],
)
def test_the_process_ends_with_its_program(destination, tmp_path, rest):
    """When its program is killed the process ends, even if somebody else still holds its pipe."""
    script = tmp_path / "program.py"
    script.write_text(PROGRAM.format(tests=str(Path(__file__).parent), uri=destination.tracking_uri, rest=rest))
    with subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        pid = int(program.stdout.readline())
        program.wait(60)
        wait_until(lambda: not is_alive(pid))
