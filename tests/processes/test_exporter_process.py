"""The exporter process under load and in programs of their own: nothing is lost or doubled, and it ends with them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ended import EndedTrace, is_alive, new_destination, spans_of_a_trace, stored_ids, wait_until

from dspy_mlflow_callbacks.export.exporter import Exporter
from dspy_mlflow_callbacks.export.waiting import Limits

LIMITS = Limits()


@pytest.fixture
def destination(tmp_path):
    return new_destination(f"sqlite:///{tmp_path}/mlflow.db", "exporter process")


def test_under_load_the_killed_process_loses_and_doubles_nothing(destination):
    """A process that is killed in the middle of a load leaves every trace stored once."""
    own = Exporter()
    traces = [EndedTrace(destination, spans=spans_of_a_trace(1)) for _ in range(3000)]
    rest = iter(traces)

    def put_until(condition):
        for trace in rest:
            own.put(trace, LIMITS)
            if condition():
                return
            if own.queued > 500:
                wait_until(lambda: own.queued <= 500 or condition())
        pytest.fail("the load is over too soon")

    helper = own._delivery._helper
    put_until(lambda: helper._process is not None and helper._process._is_ready and helper._process._number > 2)
    os.kill(helper._process.pid, signal.SIGKILL)
    for trace in rest:
        own.put(trace, LIMITS)
    assert own.flush(100)
    assert {trace.outcome() for trace in traces} == {"stored"}
    assert stored_ids(destination) == sorted(trace.id for trace in traces)
    own.close(60)
    assert helper._deaths == 1


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
    script.write_text(PROGRAM.format(tests=str(Path(__file__).parents[1]), uri=destination.tracking_uri, rest=rest))
    with subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        pid = int(program.stdout.readline())
        program.wait(60)
        wait_until(lambda: not is_alive(pid))
