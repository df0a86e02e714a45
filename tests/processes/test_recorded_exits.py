"""What is in the store when a program has ended without a flush (recorded engine)."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from programs import program_tree

from dspy_mlflow_callbacks.testing.captured import tree

PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
import dspy, mlflow
from offline_lm import OfflineLM
from programs import Program
from dspy_mlflow_callbacks import MlflowCallback

mlflow.set_tracking_uri({uri!r})
dspy.configure(lm=OfflineLM(), callbacks=[MlflowCallback({options})])
for _ in range(20):
    Program()(question="why?")
{rest}
print("the end", flush=True)
"""


def run(folder, uri, *, options="engine='recorded'", rest=""):
    """Run a program to its end in a process of its own, and return what it printed and logged."""
    file = folder / "program.py"
    file.write_text(PROGRAM.format(tests=str(Path(__file__).parents[1]), uri=uri, options=options, rest=rest))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    environment |= {"MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(
        [sys.executable, str(file)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "the end" in done.stdout, done.stderr
    return done


def stored_in(uri):
    traces = mlflow.MlflowClient(uri).search_traces(locations=["0"])
    return [tree(trace) for trace in traces]


@pytest.mark.parametrize("rest", ["", "sys.exit(3)"], ids=["ends", "exits"])
def test_at_exit_all_is_stored(tmp_path, rest):
    """A program that ends without a flush leaves all its traces in the store."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    rest = f"print('the end', flush=True); {rest}" if rest else ""
    done = run(tmp_path, uri, rest=rest)
    assert done.returncode == (3 if rest else 0)
    assert stored_in(uri) == [[program_tree()]] * 20


def test_at_exit_a_running_trace_is_lost_and_no_other(tmp_path):
    """A trace that is open when the program exits does not keep the others, or the process, from the end."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    rest = """
import threading
entered = threading.Event()
class Waits(dspy.Module):
    def forward(self):
        entered.set()
        threading.Event().wait()
settings = dict(dspy.settings.config)
def work():
    with dspy.context(callbacks=settings["callbacks"]):
        Waits()()
threading.Thread(target=work, daemon=True).start()
entered.wait()
"""
    assert run(tmp_path, uri, rest=rest).returncode == 0
    assert stored_in(uri) == [[program_tree()]] * 20


def test_at_exit_a_store_that_is_away_holds_nobody_up(tmp_path):
    """With a limit of no time and a server that is away, the program ends, and says what it could not store where."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    done = run(tmp_path, uri, options="engine='recorded', exit_timeout_s=0")
    assert done.returncode == 0
    assert f"Traces are not stored in {uri}: " in done.stderr
