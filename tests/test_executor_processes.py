"""`run` in other processes: begun with `spawn`, two of them."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

import dspy
import pytest
from answers import Answers, asking
from ended import wait_until
from expected import bare, failed, ordered

from dspy_mlflow_callbacks import run
from dspy_mlflow_callbacks.testing.captured import tree

SECONDS = 10  # enough for a new process on a busy machine: its first call has imports in it


class Dying(dspy.Module):
    """Ends its process when it is first called, and waits for ever for one input."""

    def __init__(self, marker: str) -> None:
        super().__init__()
        self.marker = marker

    def forward(self, question):
        marker = Path(self.marker)
        if not marker.exists():
            marker.touch()
            os._exit(1)
        wait_until(lambda: question != "wait")
        return question


@pytest.mark.timeout(200)
def test_processes_share_one_trace(dspy_traces):
    """What runs in other processes is below the run's span, with this process's settings; errors lead to it."""
    inputs = asking("a", "b", "fail once", "fail", *"cdefgh")
    with dspy.context(max_errors=7):
        results = run(Answers(), inputs, on="processes", max_workers=2, retries=1, on_error="keep", trace="one")
        answers = [getattr(each, "answer", str(each)) for each in results.predictions]
    assert answers == ["A", "B", "FAIL ONCE", "I do not know: fail", *"CDEFGH"]
    once, never = failed("Answers", "CHAIN"), bare("Answers")
    (root,) = tree(dspy_traces.one())
    assert root[:3] == ("Run", "CHAIN", "OK")
    assert ordered(root[3]) == ordered([once] * 3 + [never] * 9)
    (error,) = results.errors
    said = "".join(traceback.format_exception(error.error))
    assert "in another process:" in said
    assert "in answer\n" in said
    if sys.version_info >= (3, 11):
        assert f"MLflow trace {error.trace_id}: http" in said
    assert error.trace_id == results.trace_id == dspy_traces.one().info.trace_id


@pytest.mark.timeout(200)
def test_a_process_that_dies(dspy_traces, tmp_path):
    """A process that dies is replaced, and its input attempted again; one that takes too long is given up."""
    program = Dying(str(tmp_path / "died"))
    inputs = asking("a", "wait", "b")
    results = run(program, inputs, on="processes", max_workers=1, retries=1, timeout=SECONDS, on_error="keep").all()
    assert [each.prediction for each in results] == ["a", None, "b"]
    assert str(results[1].error).endswith(f"took longer than {SECONDS} s")
    tags = {trace.info.trace_id: trace.info.tags for trace in dspy_traces.all()}
    # The process has ended in the middle of the one that was given up: nothing of it had ended before.
    assert results[1].trace_id is not None
    assert [tags[each.trace_id]["dspy.run.attempt"] for each in results[::2]] == ["2", "1"]


@pytest.mark.parametrize(("engine_name", "package"), [("ray", "ray"), ("dask", "distributed"), ("spark", "pyspark")])
def test_an_engine_that_is_not_there(monkeypatch, dspy_traces, engine_name, package):
    """Where an engine is not installed, the error says what to install."""
    monkeypatch.setitem(sys.modules, f"dspy_mlflow_callbacks.distributed.{engine_name}", None)
    said = rf"on='{engine_name}' needs the package {package}: pip install 'dspy-mlflow-callbacks\[{engine_name}\]'"
    with pytest.raises(ImportError, match=said):
        run(Answers(), asking("a"), on=engine_name)
