"""Forks: what is open stays the parent's, the child traces at once, and both end."""

from __future__ import annotations

import json

import mlflow
import pytest
from programs_of_processes import Programs, tree
from tracking_server import TrackingServer

ECHO = [("Echo", [])]


def test_a_fork_traces_at_once(processes):
    """A fork of a program that has traced stores its own traces, and the parent goes on with its own."""
    processes.run("""
calls(20)
child = os.fork()
calls(3)
if not child:
    assert flush(60)
    stats = callback.stats()
    assert (stats.started, stats.ended, stats.open, stats.queued) == (3, 3, 0, 0), stats
    sys.exit()
assert ended(child) == 0
assert callback.stats().started == 23
""")
    traces = processes.traces()
    assert [tree(trace) for trace in traces] == [ECHO] * 26
    assert len({trace.info.trace_id for trace in traces}) == len(set(processes.questions())) == 26


MID_TRACE = """
def fork(_):
    with mlflow.start_span("before the fork"):
        pass
    calls(1)
    child = os.fork()
    calls(2)
    if not child:
        {end}
    assert ended(child) == 0
    calls(1)

Runs(fork)(given="parent")
{after}
"""


@pytest.mark.parametrize(
    ("end", "after"),
    [
        ("sys.exit()", ""),
        ("assert flush(60); os._exit(0)", ""),
        ("return", "calls(1)"),
    ],
    ids=["exits", "leaves at once", "returns through the call"],
)
def test_a_fork_in_mid_trace_adds_to_the_trace(processes, end, after):
    """What a fork calls nests in the call that made it, once; the calls around it end in the parent alone."""
    processes.run(MID_TRACE.format(end=end, after=after))
    (trace, *others) = sorted(processes.traces(), key=lambda trace: -len(trace.data.spans))
    assert tree(trace) == [("Runs", [("before the fork", [])] + [("Echo", [])] * 6)]
    assert [tree(other) for other in others] == [ECHO] * (2 if after else 0)
    assert trace.info.state == "OK"
    assert {span.status.status_code for span in trace.data.spans} == {"OK"}


def test_a_fork_leaves_the_open_calls_of_other_threads_to_the_parent(processes):
    """What other threads had open at the fork is stored by the parent, once, and forgotten in the fork."""
    processes.run("""
forked = threading.Event()
begun = threading.Barrier(5)

def wait(_):
    begun.wait(60)
    assert forked.wait(60)

threads = [threading.Thread(target=Runs(wait), kwargs={"given": number}) for number in range(4)]
for thread in threads:
    thread.start()
begun.wait(60)
child = os.fork()
if not child:
    assert callback.stats().open == 0
    calls(1)
    sys.exit()
forked.set()
assert ended(child) == 0
for thread in threads:
    thread.join()
assert callback.stats().open == 0
""")
    assert sorted(str(tree(trace)) for trace in processes.traces()) == sorted([str(ECHO), *[str([("Runs", [])])] * 4])


def test_forks_under_load_find_no_lock_held(processes, engine):
    """Forks that are made while many threads trace never wait for what the fork has not; nothing is lost or doubled."""
    said = processes.run("""
stop = threading.Event()
done = []

def work():
    count = 0
    while not stop.is_set() and count < 100:
        Answer()(question=f"{threading.get_ident()} {count}")
        count += 1
    done.append(count)

threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
children = []
for _ in range(8):
    child = os.fork()
    if not child:
        signal.alarm(60)
        calls(5)
        callback.stats()
        with mlflow.start_span("the user's own"):
            calls(1)
        assert flush(50)
        sys.exit()
    children.append(child)
    time.sleep(0.05)
stop.set()
for thread in threads:
    thread.join()
assert [ended(child) for child in children] == [0] * 8
print(sum(done))
""")
    stored = processes.traces()
    names = [trace.data.spans[0].name for trace in stored]
    counts = [names.count(name) for name in ("Answer", "Echo", "the user's own")]
    assert counts[1:] == [8 * 5, 8]
    assert counts[0] == int(said) or engine == "native"  # MLflow's exporter drops what is too much for it


@pytest.mark.parametrize("way", ["fork", "spawn", "forkserver"])
def test_multiprocessing_of_each_kind(processes, way):
    """Workers of a process pool, however they are started, trace with a callback that comes by plain pickle."""
    processes.run(f"""
import multiprocessing, pickle

def work(pickled):
    program, callback = pickle.loads(pickled)
    assert [each.config.tags["team"] for each in (callback, *program.callbacks)] == ["search", "search"]
    with dspy.context(lm=OfflineLM(), callbacks=[callback]):
        Echo()(question=f"{{os.getpid()}} by the callback")
        program(question=f"{{os.getpid()}} attached")

if __name__ == "__main__":
    from dspy_mlflow_callbacks import attach
    context = multiprocessing.get_context({way!r})
    calls(2)
    mine = MlflowCallback(tags={{"team": "search"}})
    pickled = pickle.dumps((attach(Echo(), mine), mine))
    workers = [context.Process(target=work, args=(pickled,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
""")
    assert [tree(trace) for trace in processes.traces()] == [ECHO] * 6
    teams = [trace.info.tags.get("team") for trace in processes.traces()]
    assert (teams.count("search"), len(set(processes.questions()))) == (4, 6)


def test_a_pool_of_processes(processes):
    """Workers of `concurrent.futures` store all that they traced when their pool ends."""
    processes.run("""
from concurrent.futures import ProcessPoolExecutor
import multiprocessing
if __name__ == "__main__":
    calls(1)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        list(pool.map(calls, [10] * 4))
""")
    assert len(set(processes.questions())) == len(processes.traces()) == 41


WORKERS = """
import json
calls(5)
assert flush(60)
children = []
for _ in range(4):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        calls(500)
        assert flush(200)
        stats = callback.stats()
        os.write(writer, json.dumps([stats.ended, stats.stored, stats.lost, stats.queued]).encode())
        sys.exit()
    os.close(writer)
    children.append((child, reader))
print(json.dumps([json.loads(os.read(reader, 1000)) for _, reader in children]))
assert [ended(child) for child, _ in children] == [0] * 4
"""


@pytest.fixture(params=["SQLite", "a tracking server"])
def destination(request, processes, tmp_path, monkeypatch):
    """Return what runs programs that store in a database of their own, or in a server's."""
    if request.param == "SQLite":
        yield processes
        return
    (tmp_path / "server").mkdir()
    server = TrackingServer(tmp_path / "server").start()
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(server.uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    experiment_id = mlflow.set_experiment("workers").experiment_id
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment_id)
    yield Programs(tmp_path, experiment_id)
    mlflow.set_tracking_uri(before)
    server.stop()


@pytest.mark.engine("auto")  # MLflow's exporter drops what is too much for it
def test_workers_at_full_speed_lose_nothing(destination):
    """Four forks with 500 calls each store every one once, in one database at the same time or over a server."""
    counted = json.loads(destination.run(WORKERS))
    assert counted == [[500, 500, 0, 0]] * 4
    assert len(set(destination.questions())) == len(destination.questions()) == 4 * 500 + 5
