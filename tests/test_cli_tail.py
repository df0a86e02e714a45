"""`dspy-mlflow tail` and `demo`: new traces as they come, and one to begin with."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
import threading

import dspy
import mlflow
import pytest
from offline_lm import OfflineLM
from programs import Echo, Program

from dspy_mlflow_callbacks import MlflowCallback
from dspy_mlflow_callbacks.stored.following import HORIZON_S, Follower
from dspy_mlflow_callbacks.stored.search import Search


def call(program):
    with dspy.context(lm=OfflineLM(), callbacks=[MlflowCallback()]):
        program(question="why?")


def names(follower):
    return [trace.info.tags["mlflow.traceName"] for trace in follower.new()]


def test_only_new_traces_are_found(dspy_traces):
    """What was there is not told, what is new is told once, oldest first."""
    call(Echo())
    dspy_traces.all()
    follower = Follower(Search(experiments=[dspy_traces.experiment_id]))
    assert names(follower) == []
    call(Program())
    call(Echo())
    dspy_traces.all()
    assert names(follower) == ["Program", "Echo"]
    assert names(follower) == []


def test_what_is_old_is_forgotten(dspy_traces):
    """Ids are remembered as long as their traces can be found."""
    call(Echo())
    dspy_traces.all()
    began = mlflow.get_trace(dspy_traces.all()[0].info.trace_id).info.request_time / 1000
    times = [began + 1, began + HORIZON_S + 5]
    follower = Follower(Search(experiments=[dspy_traces.experiment_id]), now=lambda: times.pop(0))
    assert len(follower._seen) == 1
    assert follower.new() == []
    assert follower._seen == {}


@pytest.mark.engine("recorded")  # it stores a trace at once; MLflow's exporter may say its name later
@pytest.mark.parametrize("as_json", [False, True])
def test_traces_are_printed_as_they_are_stored(dspy_traces, run_cli, as_json):
    """A row or a line of JSON for each, until there are as many as asked for."""
    program = threading.Timer(0.5, lambda: [call(Echo()) for _ in range(5)])
    program.start()
    options = ["--experiment", dspy_traces.experiment_id, "--limit", 2, "--interval", 0.05]
    status, output, _ = run_cli("tail", *options, *(["--json"] if as_json else []))
    program.join()
    assert status == 0
    lines = output.splitlines()
    if as_json:
        assert [json.loads(line)["name"] for line in lines] == ["Echo", "Echo"]
    else:
        assert [line.split().count("Echo") for line in lines] == [0, 1, 1]


def test_ctrl_c_ends_it_well(dspy_traces, tmp_path):
    """An interrupt ends it with status 0."""
    command = [sys.executable, "-m", "dspy_mlflow_callbacks", "tail", "--experiment", dspy_traces.experiment_id]
    options = ["--tracking-uri", mlflow.get_tracking_uri(), "--interval", "0.05"]
    # Jobs in the background of a shell that runs a script are begun deaf to Ctrl-C.
    hears = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        [*command, *options],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=hears,  # noqa: PLW1509  (it takes no lock)
    ) as process:
        assert process.stdout.readline().startswith("trace ")
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0


def test_a_store_that_is_none_exits_with_2(run_cli):
    """It says so."""
    status, output, errors = run_cli("tail", "--tracking-uri", "nowhere://")
    assert (status, output) == (2, "")
    assert "dspy-mlflow tail: " in errors


def test_the_demo_has_a_store_of_its_own(run_cli, own_folder):
    """It prints its trace and where to look; what it says can be shown."""
    before = mlflow.get_tracking_uri()
    status, output, _ = run_cli("demo")
    assert status == 0
    assert "─ years_between  TOOL" in output
    trace_id = output.split()[0]
    uri = output.rpartition(" ")[2].strip()
    assert uri.startswith("sqlite:///")
    assert uri != before
    assert run_cli("show", trace_id, "--tracking-uri", uri)[1].startswith(trace_id)


def test_the_demo_takes_a_store(run_cli, dspy_traces):
    """With `--tracking-uri` it goes there, again and again; `--json` says where it is."""
    for _ in range(2):
        status, output, _ = run_cli("demo", "--json", "--tracking-uri", mlflow.get_tracking_uri())
        said = json.loads(output)
        assert (status, said["tracking_uri"]) == (0, mlflow.get_tracking_uri())
        assert mlflow.get_trace(said["trace_id"]).info.state.value == "OK"
