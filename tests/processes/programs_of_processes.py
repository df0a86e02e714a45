"""Programs that are run as processes of their own: what they share, and where their traces are looked for."""

from __future__ import annotations

import functools
import signal
import subprocess
import sys
from pathlib import Path

import mlflow

# A program in a file: `__main__` is what it is for users, and `spawn` can find it.
BEGINNING = """
import itertools, os, signal, sys, threading, time
sys.path.insert(0, {tests!r})
import dspy, mlflow
from dspy.utils.dummies import DummyLM
from offline_lm import OfflineLM
from programs import Answer, Calling, Echo, Program, Runs
from dspy_mlflow_callbacks import MlflowCallback, flush

callback = MlflowCallback(**{options!r})
dspy.configure(lm=OfflineLM(), callbacks=[callback])

asked = itertools.count()

def calls(count):
    for _ in range(count):
        Echo()(question=f"{{os.getpid()}} {{next(asked)}}")

def ended(pid):
    \"\"\"Wait until a child has ended, and return its exit status.\"\"\"
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

"""


class Programs:
    """Writes programs into a folder, runs them, and looks at what they stored.

    Args:
        folder: Where they run.
        experiment_id: The experiment of the environment.
    """

    def __init__(self, folder, experiment_id):
        self.folder = folder
        self.experiment_id = experiment_id

    def file(self, rest, **options):
        file = self.folder / "program.py"
        file.write_text(BEGINNING.format(tests=str(Path(__file__).parents[1]), options=options) + rest)
        return file

    def start(self, rest, **options):
        """Begin a program, and return its process; what it prints comes by a pipe."""
        return subprocess.Popen(
            [sys.executable, self.file(rest, **options)],
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Jobs in the background of a shell that runs a script are begun deaf to Ctrl-C.
            preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  (it takes no lock)
        )

    def run(self, rest, *, status=0, **options):
        """Run a program to its end, and return what it printed; its warnings fail the test."""
        with self.start(rest, **options) as program:
            try:
                said, warned = program.communicate(timeout=150)
            except subprocess.TimeoutExpired:
                program.kill()
                raise
        assert program.returncode == status, warned[-3000:]
        assert "Traceback" not in warned, warned[-3000:]
        assert "dspy_mlflow_callbacks" not in warned, warned[-3000:]
        return said

    def traces(self):
        """Return the traces that are stored, as they began."""
        found, token = [], None
        while True:
            page = mlflow.MlflowClient().search_traces(
                locations=[self.experiment_id], max_results=500, page_token=token, order_by=["timestamp_ms ASC"]
            )
            found += page
            token = page.token
            if not token:
                return found

    def questions(self):
        """Return the questions of all stored traces, sorted; twice if they are there twice."""
        return sorted(trace.data.spans[0].inputs["question"] for trace in self.traces())


def tree(trace):
    """Return a stored trace as nested names, children in the order in which they began."""
    children = {}
    for span in sorted(trace.data.spans, key=lambda span: span.start_time_ns):
        children.setdefault(span.parent_id, []).append(span)

    def below(parent_id):
        return [(span.name, below(span.span_id)) for span in children.pop(parent_id, [])]

    nested = below(None)
    assert not children, f"spans without their parent: {children}"
    return nested
