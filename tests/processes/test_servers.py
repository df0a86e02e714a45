"""Prefork servers, and processes that gevent has patched."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ended import wait_until
from programs_of_processes import tree

APP = """
def app(environ, start_response):
    answer = Program()(question=environ["QUERY_STRING"]).answer
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getpid()} {answer}".encode()]

Program()(question="before the fork")  # the parent has traced, and has threads
"""
CALLS = 40
CHAIN = [("Program", [("Program.generate", [("Program.generate.predict", [])])])]


def asked(port, number):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/?{number}", timeout=100) as answer:
        return int(answer.read().split()[0])


def is_up(port):
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/?first", timeout=100).close()
    except (urllib.error.URLError, OSError):
        return False
    return True


@pytest.mark.parametrize("kind", ["sync", "gthread"])
def test_gunicorn_with_preload(processes, kind):
    """Each worker of a server that loads the program before it forks stores what it traced, and ends by SIGTERM."""
    file = processes.file(APP, events=["module"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "--preload",
        "--workers",
        "2",
        "--worker-class",
        kind,
        "--threads",
        "2",
    ]
    log = processes.folder / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*command, "--timeout", "100", "--bind", f"127.0.0.1:{port}", f"{file.stem}:app"],
            cwd=processes.folder,
            stdout=output,
            stderr=output,
            env={**os.environ, "PYTHONPATH": str(processes.folder)},
        )
    try:
        wait_until(lambda: server.poll() is not None or is_up(port))
        assert server.poll() is None, log.read_text()[-3000:]
        with ThreadPoolExecutor(8) as pool:
            workers = set(pool.map(lambda number: asked(port, number), range(CALLS)))
        assert server.pid not in workers
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(100) == 0
    assert "dspy_mlflow_callbacks" not in log.read_text()
    traces = processes.traces()
    assert [tree(trace) for trace in traces] == [CHAIN] * len(traces)
    questions = processes.questions()
    assert [each for each in questions if each.isdigit()] == sorted(map(str, range(CALLS)))
    assert questions.count("before the fork") == 1


GEVENT = """
import gevent
from gevent import monkey
{patch}
import sys
sys.path.insert(0, {tests!r})
import dspy, mlflow
from offline_lm import OfflineLM
from programs import Program
from dspy_mlflow_callbacks import MlflowCallback, flush

class Slow(OfflineLM):
    def forward(self, *args, **kwargs):
        gevent.sleep(0.01)  # another greenlet runs in the middle of each call
        return super().forward(*args, **kwargs)

mlflow.MlflowClient().search_experiments()  # opens the store, however slow the machine
callback = MlflowCallback()
dspy.configure(lm=Slow(), callbacks=[callback])

def work(number):
    program = Program()
    for each in range(5):
        program(question=f"{{number}} {{each}}")

jobs = [gevent.spawn(work, number) for number in range(10)]
gevent.joinall(jobs, raise_error=True)
assert flush(60)
stats = callback.stats()
assert (stats.open, stats.failed, stats.started) == (0, 0, stats.ended), stats
"""
PATCHES = {"patched": "monkey.patch_all()", "not patched": ""}


@pytest.mark.parametrize("patch", PATCHES.values(), ids=PATCHES)
def test_greenlets_trace_like_threads(processes, patch):
    """Calls in greenlets that take turns in mid-call are traces of their own, each with its own children."""
    file = Path(processes.folder / "greenlets.py")
    file.write_text(GEVENT.format(patch=patch, tests=str(Path(__file__).parents[1])))
    done = subprocess.run(
        [sys.executable, file], cwd=processes.folder, capture_output=True, text=True, timeout=150, check=False
    )
    assert (done.returncode, "dspy_mlflow_callbacks" in done.stderr) == (0, False), done.stderr[-3000:]
    assert processes.questions() == sorted(f"{number} {each}" for number in range(10) for each in range(5))
    predict = ("Program.generate.predict", [("ChatAdapter.format", []), ("dummy", []), ("ChatAdapter.parse", [])])
    expected = [("Program", [("Program.generate", [predict])])]
    assert [tree(trace) for trace in processes.traces()] == [expected] * 50
