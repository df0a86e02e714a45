"""The experiment of traces: the option `experiment`, MLflow's own ways, and what happens when it cannot be had."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import dspy
import mlflow
import pytest
from mlflow.entities.trace_location import MlflowExperimentLocation
from programs import Calling, Echo, Program, answering
from threads import at_once

from dspy_mlflow_callbacks import MlflowCallback
from dspy_mlflow_callbacks.export import experiments as found_experiments
from dspy_mlflow_callbacks.export.spool.reading import all_rows
from dspy_mlflow_callbacks.export.spool.settings import SpoolSettings, default_folder
from dspy_mlflow_callbacks.spans.experiments import Experiment, ExperimentError, ExperimentNames

pytestmark = pytest.mark.usefixtures("own_folder")


def run(program=None, **options):
    """Run a program and return the callback that recorded it."""
    callback = MlflowCallback(**options)
    with dspy.context(lm=answering(), callbacks=[callback]):
        (program or Echo())()
    return callback


@pytest.fixture
def client(dspy_traces):
    """Return a client of the store that the traces of a test go to."""
    return mlflow.MlflowClient()


@pytest.fixture
def name(request):
    """Return a name that no other test has for an experiment."""
    return f"the experiment of {request.node.name}"


def names_in(experiment_id):
    """Return the names of the traces in an experiment, in the order in which they began."""
    mlflow.flush_trace_async_logging()
    traces = mlflow.search_traces(locations=[experiment_id], return_type="list", include_spans=False)
    return [trace.info.tags["mlflow.traceName"] for trace in sorted(traces, key=lambda trace: trace.info.request_time)]


def id_of(name):
    return mlflow.get_experiment_by_name(name).experiment_id


def test_traces_go_to_the_experiment_of_the_option(dspy_traces, name):
    """An experiment that is not there is made, and the traces of the callback go there, those of others do not."""
    run(experiment=name)
    run(experiment=name)
    Echo()()
    assert names_in(id_of(name)) == ["Echo", "Echo"]
    assert len(dspy_traces.all()) == 1


def test_an_experiment_may_be_given_by_id(client, name):
    """The id of an experiment does as well as its name."""
    experiment_id = client.create_experiment(name)
    run(experiment=experiment_id)
    assert names_in(experiment_id) == ["Echo"]


def test_a_name_goes_before_an_id(client, name):
    """A number that is the name of an experiment is that experiment, be it another one's id."""
    experiment_id = client.create_experiment(name)
    namesake = client.create_experiment(experiment_id)
    run(experiment=experiment_id)
    assert (names_in(experiment_id), names_in(namesake)) == ([], ["Echo"])


def test_nothing_global_is_touched(client, name):
    """MLflow's active experiment, its variables and its run are after the traces what they were before."""

    def state():
        variables = {key: value for key, value in os.environ.items() if key.startswith("MLFLOW")}
        return variables, mlflow.active_run(), mlflow.tracking.fluent._get_experiment_id(), mlflow.get_tracking_uri()

    before = state()
    run(experiment=name)
    assert state() == before


def test_two_programs_with_two_experiments_side_by_side(client, name):
    """Callbacks on two programs that run at once in threads record each into an experiment of its own."""
    both = threading.Barrier(2)

    def work(which):
        program = Calling(lambda: both.wait(timeout=60))
        program.callbacks = [MlflowCallback(experiment=f"{name} {which}")]
        with dspy.context(callbacks=[]):
            for _ in range(3):
                program()

    with ThreadPoolExecutor(2) as executor:
        list(executor.map(work, range(2)))
    assert [names_in(id_of(f"{name} {which}")) for which in range(2)] == [["Calling"] * 3] * 2


def test_an_attached_program_inside_another_trace_is_a_part_of_it(client, name):
    """A trace has one experiment, the outer callback's; called alone, the program's own callback has its own."""
    inner = Echo()
    inner.callbacks = [MlflowCallback(experiment=f"{name}, inner")]
    run(Calling(inner), experiment=f"{name}, outer")
    inner()
    assert names_in(id_of(f"{name}, outer")) == ["Calling"]
    assert names_in(id_of(f"{name}, inner")) == ["Echo"]


def test_traces_below_a_hidden_call_go_there_too(client, name):
    """Where the program's own call has no span, the traces that begin below it go to the experiment."""
    run(lambda: Program()(question="why?"), experiment=name, events=["lm"])
    assert names_in(id_of(name)) == ["dummy"]


def test_inside_a_run_of_another_experiment(client, name):
    """Inside a run of another experiment the option says where the trace goes, and the trace is linked to the run."""
    with mlflow.start_run() as active:
        run(experiment=name)
        assert mlflow.active_run() is active
    mlflow.flush_trace_async_logging()
    both = [id_of(name), active.info.experiment_id]
    linked = mlflow.search_traces(locations=both, run_id=active.info.run_id, return_type="list")
    assert [trace.info.experiment_id for trace in linked] == [id_of(name)]


@pytest.mark.parametrize("has_option", [True, False])
def test_beside_a_destination_of_the_users(client, name, has_option):
    """The option goes before `mlflow.tracing.set_destination`; without it the destination stands."""
    chosen, destination = client.create_experiment(name), client.create_experiment(f"{name}, destination")
    mlflow.tracing.set_destination(MlflowExperimentLocation(destination))
    run(experiment=name if has_option else None)
    assert names_in(chosen if has_option else destination) == ["Echo"]
    assert names_in(destination if has_option else chosen) == []


def test_after_the_store_was_changed(client, name, tmp_path):
    """After `mlflow.set_tracking_uri` the experiment is looked for, and made, in the new store."""
    callback = MlflowCallback(experiment=name)
    first = mlflow.get_tracking_uri()
    with dspy.context(callbacks=[callback]):
        Echo()()
        mlflow.flush_trace_async_logging()
        shutil.copy(urlsplit(first).path, tmp_path / "mlflow.db")
        mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
        mlflow.MlflowClient().rename_experiment(id_of(name), "renamed")
        Echo()()
    assert (names_in(id_of("renamed")), names_in(id_of(name))) == (["Echo"], ["Echo"])
    mlflow.set_tracking_uri(first)
    assert names_in(id_of(name)) == ["Echo"]


def test_many_threads_make_one_experiment(client, name):
    """Callbacks that ask at once for an experiment that is not there all get the one that the first of them made."""
    ids = at_once(*[Experiment(name).id for _ in range(8)])
    assert set(ids) == {id_of(name)}


def test_an_experiment_that_another_made_meanwhile_is_taken(client, name):
    """Where another process was faster with making the experiment, that one is taken."""
    made = client.create_experiment(name)
    assert found_experiments._create(client, name).experiment_id == made


def test_an_experiment_that_the_store_does_not_make_is_named(client):
    """An experiment that the store refuses to make raises its name and the reason."""
    with pytest.raises(ExperimentError, match=r"Traces for the experiment 'x{501}' are not stored: .*length"):
        Experiment("x" * 501).id()


def test_a_middleware_knows_the_experiment(client, name):
    """`call.experiment` is id and name of the experiment of the option, or of MLflow's active one."""
    seen = []
    for option in (name, None):
        run(experiment=option, middleware=[lambda call: seen.append(call.experiment) or call])
    active = mlflow.get_experiment(mlflow.tracking.fluent._get_experiment_id())
    assert seen == [(id_of(name), name), (active.experiment_id, active.name)]


def test_a_middleware_knows_the_experiment_of_a_destination(client, name):
    """`call.experiment` is that of `mlflow.tracing.set_destination`, where the user chose one."""
    seen = []
    chosen = client.create_experiment(name)
    mlflow.tracing.set_destination(MlflowExperimentLocation(chosen))
    run(middleware=[lambda call: seen.append(call.experiment) or call])
    assert seen == [(chosen, name)]


def test_an_experiment_whose_name_the_store_does_not_say(client):
    """Of an experiment that is not in the store the id alone is known; of no experiment nothing."""
    names = ExperimentNames()
    assert (names("987654"), names(None)) == (("987654",), ())


def deleted(client, name):
    experiment_id = client.create_experiment(name)
    client.delete_experiment(experiment_id)
    return name, f"'{name}' are not stored: it is deleted; `mlflow experiments restore -x {experiment_id}` brings it"


def deleted_by_id(client, name):
    _, message = deleted(client, name)
    experiment_id = client.get_experiment_by_name(name).experiment_id
    return experiment_id, message.replace(name, experiment_id)


def unknown_id(client, name):
    return "987654", "'987654' are not stored: "


def knows_none(call):
    assert call.experiment == ()
    return call


@pytest.mark.warns
@pytest.mark.parametrize("case", [deleted, deleted_by_id, unknown_id])
def test_an_experiment_that_cannot_be_used(client, dspy_traces, warned, name, case):
    """Traces for an experiment that is deleted, unknown by id or refused are lost, counted and said once."""
    experiment, message = case(client, name)
    callback = MlflowCallback(experiment=experiment, middleware=[knows_none])
    with dspy.context(lm=answering(), callbacks=[callback]):
        answers = [Program()(question="why?").answer for _ in range(3)]
    stats = callback.stats()
    assert answers == ["42"] * 3
    assert (stats.failed, stats.started, stats.open) == (3, 0, 0)
    assert dspy_traces.all() == []
    (warning,) = warned.messages
    assert message in warning
    assert warning.endswith("The program goes on without them.")


@pytest.mark.warns
def test_a_trace_that_is_lost_is_lost_as_a_whole(client, dspy_traces, name):
    """Of a trace whose experiment cannot be had no part becomes a trace of its own, also not of the user's."""
    (experiment, _), inner = deleted(client, name), Echo()
    inner.callbacks = [MlflowCallback()]

    def do():
        inner()
        with mlflow.start_span("mine"):
            Echo()()

    run(Calling(do), experiment=experiment)
    assert dspy_traces.all() == []


@pytest.mark.warns
def test_an_experiment_that_is_restored_is_used(client, name):
    """Once a deleted experiment is restored, a new callback records into it."""
    experiment, _ = deleted(client, name)
    run(experiment=experiment)
    client.restore_experiment(id_of(name))
    run(experiment=experiment)
    assert names_in(id_of(name)) == ["Echo"]


class SilentServer:
    """Takes connections, and never answers."""

    def __init__(self):
        self.connections = []
        self.has_connection = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                self.connections.append(self._listener.accept())
            except OSError:  # it is closed
                return
            self.has_connection.set()

    def close(self):
        if self._listener.fileno() != -1:
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes who accepts
            self._listener.close()
        for connection, _ in self.connections:
            connection.close()


@pytest.fixture
def silent_server():
    server = SilentServer()
    yield server
    server.close()


def test_a_server_that_does_not_answer_is_waited_for_once(dspy_traces, silent_server, monkeypatch):
    """Who asks a server that does not answer for an experiment waits a while once, and it is asked once."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow.set_tracking_uri(f"http://127.0.0.1:{silent_server.port}")
    experiment = Experiment("there", seconds=2.0)
    for _ in range(5):
        with pytest.raises(ExperimentError, match="has not opened its store in time"):
            experiment.id()
    assert silent_server.has_connection.wait(timeout=60)
    assert len(silent_server.connections) == 1


PROGRAM = """
import dspy, mlflow
from dspy_mlflow_callbacks import MlflowCallback

class Echo(dspy.Module):
    def forward(self):
        return "42"

{setup}
callback = MlflowCallback({options})
dspy.configure(callbacks=[callback])
print([Echo()() for _ in range(3)], callback.stats().failed)
{after}
"""
STORED = """
mlflow.flush_trace_async_logging()
for experiment in sorted(mlflow.search_experiments(), key=lambda each: each.name):
    found = mlflow.search_traces(locations=[experiment.experiment_id], return_type="list", include_spans=False)
    print(experiment.name, len(found))
"""


def process(folder, *, options="", setup="", after=STORED, **environment):
    """Run three calls in a process of its own; return what it printed and what it warned of."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_TRACKING_URI")}
    environment = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "2", **environment}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(options=options, setup=setup, after=after)],
        cwd=folder,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


LOST = "are not stored: "


@pytest.mark.parametrize("how", ["option", "variable"])
@pytest.mark.parametrize("server", ["silent", "closed"])
def test_a_server_that_is_away_costs_no_call(tmp_path, silent_server, server, how, engine):
    """The experiment asked for of a dead server: the calls return, and three traces wait for it to be found.

    On the native engine they are lost, and one warning says so. No secret is told.
    """
    if server == "closed":
        silent_server.close()
    environment = {"MLFLOW_TRACKING_URI": f"http://user:secret@127.0.0.1:{silent_server.port}"}
    if how == "variable":
        environment["MLFLOW_EXPERIMENT_NAME"] = "mine"
    options = 'experiment="mine"' if how == "option" else ""
    printed, warnings = process(tmp_path, options=options, after="", **environment)
    said = {"option": "'mine'", "variable": "of MLFLOW_EXPERIMENT_NAME=mine"}[how]
    lost = engine == "native"
    assert printed == [f"['42', '42', '42'] {3 if lost else 0}"]
    assert warnings.count(f"Traces for the experiment {said} {LOST}") == lost
    rows = all_rows(SpoolSettings(folder=default_folder()))
    assert [json.loads(row.destination)["experiment_id"] for row in rows] == ([] if lost else ["name:mine"] * 3)
    assert "secret" not in f"{warnings} {rows}"


def test_a_store_that_gets_no_traces_is_not_asked(tmp_path, silent_server):
    """Where MLflow's tracing is disabled the store is not asked for the experiment of a variable; nothing is lost."""
    environment = {
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{silent_server.port}",
        "MLFLOW_EXPERIMENT_NAME": "mine",
    }
    printed, warnings = process(tmp_path, setup="mlflow.tracing.disable()", after="", **environment)
    assert printed == ["['42', '42', '42'] 0"]
    assert LOST not in warnings


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Set up a database with the experiment `there` once; each test works on a copy."""
    folder = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # the default experiment's artifacts are where the database is set up
        client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
        client.create_experiment("there", artifact_location=folder.as_uri())
    return folder / "mlflow.db"


VARIABLES = {
    "none": ({}, ["Default 3", "there 0"]),
    "name": ({"MLFLOW_EXPERIMENT_NAME": "there"}, ["Default 0", "there 3"]),
    "new name": ({"MLFLOW_EXPERIMENT_NAME": "new"}, ["Default 0", "new 3", "there 0"]),
    "id": ({"MLFLOW_EXPERIMENT_ID": "1"}, ["Default 0", "there 3"]),
    "name and id": ({"MLFLOW_EXPERIMENT_NAME": "there", "MLFLOW_EXPERIMENT_ID": "1"}, ["Default 0", "there 3"]),
    "ratio 0": ({"MLFLOW_TRACE_SAMPLING_RATIO": "0"}, ["Default 0", "there 0"]),
    "ratio 1": ({"MLFLOW_TRACE_SAMPLING_RATIO": "1"}, ["Default 3", "there 0"]),
}


@pytest.mark.parametrize("name", VARIABLES)
def test_mlflows_variables_keep_their_meaning(tmp_path, store, name):
    """Without options of ours, MLflow's variables say store, experiment and share of traces."""
    variables, stored = VARIABLES[name]
    shutil.copy(store, tmp_path / "other.db")
    uri = f"sqlite:///{tmp_path / 'other.db'}"
    printed, _ = process(tmp_path, MLFLOW_TRACKING_URI=uri, **variables)
    assert printed == ["['42', '42', '42'] 0", *stored]


def test_the_experiment_of_a_variable_is_looked_up_once(tmp_path, store):
    """MLflow's store is asked once for the experiment of a variable: renamed meanwhile, it stays the one meant."""
    shutil.copy(store, tmp_path)
    after = 'mlflow.MlflowClient().rename_experiment("1", "renamed")\nEcho()()\n' + STORED
    variables = {"MLFLOW_TRACKING_URI": "sqlite:///mlflow.db", "MLFLOW_EXPERIMENT_NAME": "there"}
    printed, _ = process(tmp_path, after=after, **variables)
    assert printed[1:] == ["Default 0", "renamed 4"]


def test_variables_that_contradict_each_other(tmp_path, store):
    """An experiment of MLflow's variables that MLflow refuses costs the traces, and one warning says why."""
    shutil.copy(store, tmp_path)
    variables = {"MLFLOW_EXPERIMENT_NAME": "there", "MLFLOW_EXPERIMENT_ID": "0"}
    printed, warnings = process(tmp_path, after="", MLFLOW_TRACKING_URI="sqlite:///mlflow.db", **variables)
    assert printed == ["['42', '42', '42'] 3"]
    said = "MLFLOW_EXPERIMENT_NAME=there and MLFLOW_EXPERIMENT_ID=0"
    assert warnings.count(f"Traces for the experiment of {said} {LOST}The provided") == 1


@pytest.mark.parametrize(
    "setup", ['mlflow.set_experiment("there")', 'mlflow.start_run(experiment_id="1")'], ids=["set_experiment", "run"]
)
def test_what_the_program_says_goes_before_the_variables(tmp_path, store, setup):
    """`mlflow.set_experiment` and an active run go before MLFLOW_EXPERIMENT_NAME."""
    shutil.copy(store, tmp_path)
    variables = {"MLFLOW_TRACKING_URI": "sqlite:///mlflow.db", "MLFLOW_EXPERIMENT_NAME": "other"}
    printed, _ = process(tmp_path, setup=setup, **variables)
    assert [line for line in printed[1:] if not line.endswith(" 0")] == ["there 3"]
