"""The end of a program and its forks: what waits is delivered within a limit, by whom it belongs to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ended import is_alive, new_destination, stored_ids, wait_until

from dspy_mlflow_callbacks.export import exporter_process
from dspy_mlflow_callbacks.export.waiting import Destination

BEGINNING = """
import os, sys
sys.path.insert(0, {tests!r})
from ended import EndedTrace, stored_ids, wait_until
from dspy_mlflow_callbacks.export.exporter import EXPORTER
from dspy_mlflow_callbacks.export.waiting import Destination, Limits

destination = Destination(tracking_uri={uri!r}, experiment_id={experiment_id!r})

def put(count):
    traces = [EndedTrace(destination) for _ in range(count)]
    for trace in traces:
        EXPORTER.put(trace, Limits())
    return traces

"""


@pytest.fixture
def destination(tmp_path):
    return new_destination(f"sqlite:///{tmp_path}/mlflow.db", "ends")


@pytest.fixture
def program(tmp_path, destination):
    """Write a program into a file."""

    def program(rest, destination=destination):
        file = tmp_path / "program.py"
        beginning = BEGINNING.format(
            tests=str(Path(__file__).parent), uri=destination.tracking_uri, experiment_id=destination.experiment_id
        )
        file.write_text(beginning + rest)
        return file

    return program


@pytest.fixture
def run(program, destination):
    """Run a program to its end, and return what it said."""

    def run(rest, destination=destination):
        command = [sys.executable, program(rest, destination)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    return run


def test_what_waits_at_the_end_is_delivered(run, destination):
    """A program that ends right after its last trace has all of them stored."""
    run("put(30)")
    assert len(stored_ids(destination)) == 30


def test_the_end_does_not_wait_for_ever(run):
    """A program whose server is away ends within the limit; what is lost has failed, and one line says so."""
    nowhere = Destination(tracking_uri="http://127.0.0.1:9", experiment_id="1")
    rest = """
import atexit
EXPORTER.exit_timeout_s = 0.1
atexit.register(lambda: print({trace.told[0][0] for trace in traces}))
traces = put(3)
"""
    said, warned = run(rest, nowhere)
    assert said == "{'failed'}\n"
    assert warned.count("Traces are not stored in http://127.0.0.1:9: ") == 1


FORKS = {
    "os.fork": """
traces = put(20)
child = os.fork()
if not child:
    assert EXPORTER.queued == 0
    put(3)
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
""",
    "multiprocessing": """
import multiprocessing
def work():
    assert EXPORTER.queued == 0
    put(3)
traces = put(20)
child = multiprocessing.get_context("fork").Process(target=work)
child.start()
child.join()
assert child.exitcode == 0
""",
}


@pytest.mark.parametrize("rest", FORKS.values(), ids=FORKS)
def test_a_fork_begins_with_nothing(run, destination, rest):
    """A fork has an exporter of its own, which it drains at its end; what waited is the parent's, and stored once."""
    said, warned = run(rest + "assert EXPORTER.flush(60)")
    assert len(set(stored_ids(destination))) == len(stored_ids(destination)) == 23
    assert (said, "Traceback" in warned) == ("", False)


HOLDING = """
from dspy_mlflow_callbacks.export.delivery import MANY_TRACES
helper = EXPORTER._delivery._helper
helper._behind_since = -1e9
helper.note_backlog(destination.tracking_uri, MANY_TRACES + 1)
wait_until(lambda: helper.serves(destination.tracking_uri))
pid = helper._process.pid
child = os.fork()
if child:
    print(pid, child, flush=True)
else:
    assert helper._process is None
    put(2)
    assert EXPORTER.flush(60)
    sys.stdin.read()
"""


def test_a_fork_does_not_hold_the_exporter_process(program, destination):
    """The process ends with the program that has it, also when a fork of that lives on."""
    with subprocess.Popen([sys.executable, program(HOLDING)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        pid, child = map(int, parent.stdout.readline().split())
        parent.wait(60)
        wait_until(lambda: not is_alive(pid))
        wait_until(lambda: len(stored_ids(destination)) == 2)
        assert is_alive(child)
        parent.stdin.close()
        wait_until(lambda: not is_alive(child))


def test_a_spawned_process_drains_at_its_end(run, destination):
    """A process that multiprocessing started anew has its traces stored when it ends."""
    run("""
import multiprocessing
if __name__ == "__main__":
    child = multiprocessing.get_context("spawn").Process(target=put, args=(3,))
    child.start()
    child.join()
    assert child.exitcode == 0
""")
    assert len(stored_ids(destination)) == 3


def test_a_fork_keeps_a_store_in_memory(run):
    """A store in memory is not reached anew in a fork: it would be empty."""
    run("""
import mlflow
from dspy_mlflow_callbacks import mlflow_internals as internals
name = mlflow.MlflowClient("sqlite://").get_experiment("0").name
child = os.fork()
if not child:
    internals.open_store("sqlite://")
    internals.open_store("sqlite://")
    assert mlflow.MlflowClient("sqlite://").get_experiment("0").name == name
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
""")


def test_a_fork_does_not_wait_for_ever(run):
    """A fork waits for a batch that is being written, but not for one that takes very long."""
    run("""
from dspy_mlflow_callbacks.export import delivery
delivery._FORK_SECONDS = 0.01
EXPORTER._delivery._writing.acquire()
child = os.fork()
if not child:
    assert EXPORTER._delivery._writing.acquire(blocking=False)
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
EXPORTER._delivery._writing.release()
""")


def test_the_process_finds_what_the_program_finds(monkeypatch, tmp_path):
    """The exporter process has the program's import path, folder and variables, and traces nothing itself."""
    monkeypatch.setenv("DSPY_MLFLOW_AUTOLOG", "1")
    monkeypatch.setenv("MLFLOW_ENABLE_WORKSPACES", "true")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", "/somewhere"])
    environment = exporter_process._environment()
    assert environment["PYTHONPATH"] == f"{tmp_path}{os.pathsep}/somewhere"
    assert "DSPY_MLFLOW_AUTOLOG" not in environment
    assert environment["MLFLOW_ENABLE_WORKSPACES"] == "true"
