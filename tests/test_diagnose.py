"""`diagnose`: what is in force, what is wrong, and what mends it."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version

import dspy
import mlflow
import pytest
from mlflow.entities.trace_location import MlflowExperimentLocation
from programs import Echo, Program, answering
from rich.console import Console
from spooled_traces import spool_at, spooled_row
from stored import tracking_to

import dspy_mlflow_callbacks
from dspy_mlflow_callbacks import Diagnosis, Finding, MlflowCallback, TracingConfig, attach, autolog, diagnose
from dspy_mlflow_callbacks.config import OPTIONS
from dspy_mlflow_callbacks.health import destination as health_destination
from dspy_mlflow_callbacks.health import in_force, versions
from dspy_mlflow_callbacks.mlflow_internals import missing_in_mlflow, recorders
from dspy_mlflow_callbacks.peers import OPENINFERENCE


@pytest.fixture
def configured(dspy_traces, engine):
    """Return a function that configures a callback; the store is the test's own."""

    def configure(**options) -> MlflowCallback:
        callback = MlflowCallback(**options)
        dspy.configure(lm=answering(), callbacks=[callback])
        return callback

    return configure


def told(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    """Return the problems and what mends them."""
    return [(each.what, each.remedy) for each in diagnosis.problems]


# What the tests' fixture does, and what is so of every process with an old MLflow.
OF_TESTS = ("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "The recorded engine cannot serve, the native one does: MLflow ")


def notes(diagnosis: Diagnosis) -> list[str]:
    """Return what is no problem; what the tests themselves make so is left out."""
    said = [each.what for each in diagnosis.findings if not each.is_problem]
    return [text for text in said if not text.startswith(OF_TESTS)]


def test_a_healthy_process(configured, dspy_traces, engine):
    """Where all is well it says what is in force, and finds no problem."""
    configured(level="info")
    Program()(question="why?")
    dspy_traces.all()
    found = diagnose()
    assert told(found) == []
    assert found.is_healthy
    (callback,) = found.callbacks
    assert (callback.place, callback.stats.started, callback.stats.open) == ("dspy.settings.callbacks", 4, 0)
    assert callback.engine == ("native" if engine == "native" else "recorded")
    assert found.destination.answers
    assert found.destination.address == mlflow.get_tracking_uri()
    assert [each.id for each in found.destination.experiments] == [dspy_traces.experiment_id]


def test_versions_and_whether_they_are_supported(dspy_traces):
    """Each version is told beside what this package's metadata says of it."""
    found = {each.name: each for each in diagnose().versions}
    assert [(name, each.version, each.is_supported) for name, each in found.items() if name != "python"] == [
        (name, version(name), True)
        for name in ("dspy", "mlflow", "opentelemetry-api", "opentelemetry-sdk", "dspy-mlflow-callbacks")
    ]
    assert found["python"].is_supported


def test_versions_that_are_not_supported():
    """A version that is too low or missing is a problem, and pip's command mends it."""
    found = (
        versions.PackageVersion("dspy", "2.6.0", ">=3.3.1"),
        versions.PackageVersion("mlflow", "", ">=3.12"),
        versions.PackageVersion("python", "3.14.0", "<3.14"),
        versions.PackageVersion("opentelemetry-api", "1.99.0rc1", ">=1.30"),
    )
    assert [(each.what, each.remedy) for each in versions.of_versions(found) if each.is_problem] == [
        ("dspy must be >=3.3.1, and is 2.6.0.", 'pip install --upgrade "dspy>=3.3.1"'),
        ("mlflow must be >=3.12, and is not installed.", 'pip install --upgrade "mlflow>=3.12"'),
        ("python must be <3.14, and is 3.14.0.", "another Python"),
    ]


def test_a_package_that_is_not_installed():
    """A package that is not there has no version, and is not supported."""
    assert versions.installed("a-package-that-nobody-has-made") == ""


def test_what_mlflow_lacks(monkeypatch):
    """A release of MLflow in which the recorded engine does not find what it needs is a note."""
    needed = (*recorders._NEEDED, (mlflow, "what_no_release_has"))
    monkeypatch.setattr(recorders, "_NEEDED", needed)
    (found,) = versions.of_versions(())
    assert (found.is_problem, found.remedy) == (False, "pip install --upgrade mlflow")
    assert found.what.endswith("what_no_release_has.")


def test_no_callback(dspy_traces):
    """Where nothing traces, that is the problem."""
    with dspy.context(callbacks=[]):
        ((what, remedy),) = told(diagnose())
    assert what == "No callback of this package hears DSPy's calls: nothing is traced."
    assert "MlflowCallback()" in remedy


def test_options_and_where_each_comes_from(dspy_traces, monkeypatch, engine):
    """Each option says whether an argument, a variable or the default stands behind it."""
    monkeypatch.setenv("DSPY_MLFLOW_USER", "ada")
    monkeypatch.setenv("DSPY_MLFLOW_LEVEL", "debug")  # the default, said by a variable
    monkeypatch.setenv("DSPY_MLFLOW_REDACT", "maybe")
    callback = MlflowCallback(config=None, sampling_ratio=1.0, session_id=lambda _: None, verbosity="error")
    dspy.configure(callbacks=[callback])
    (found,) = diagnose().callbacks
    assert [each.name for each in found.options] == list(OPTIONS)
    options = {each.name: (each.source, each.variable) for each in found.options}
    assert options["sampling_ratio"] == ("argument", "DSPY_MLFLOW_SAMPLING_RATIO")
    assert options["user"] == ("variable", "DSPY_MLFLOW_USER")
    assert options["level"] == ("variable", "DSPY_MLFLOW_LEVEL")
    assert options["redact"] == ("default", "DSPY_MLFLOW_REDACT")
    assert options["engine"][0] == ("variable" if engine != "auto" else "default")


def test_a_config_is_an_argument(dspy_traces, monkeypatch):
    """With `config=` no variable is looked at: what it says is an argument, the rest the default."""
    monkeypatch.setenv("DSPY_MLFLOW_LEVEL", "info")
    callback = MlflowCallback(config=TracingConfig(user="ada"), session_id="s-1")
    dspy.configure(callbacks=[callback])
    (found,) = diagnose().callbacks
    assert {each.name: each.source for each in found.options if each.source != "default"} == {
        "user": "argument",
        "session_id": "argument",
    }


@pytest.mark.warns
def test_wrong_variables(configured, monkeypatch):
    """A variable that is wrong or unknown is a problem, and the message says what is allowed."""
    monkeypatch.setenv("DSPY_MLFLOW_LEVEL", "loud")
    monkeypatch.setenv("DSPY_MLFLOW_LEVLE", "info")
    monkeypatch.setenv("DSPY_MLFLOW_AUTOLOG", "maybe")
    configured()
    found = told(diagnose())
    assert [remedy for _, remedy in found] == [
        "unset DSPY_MLFLOW_LEVEL, or set it to what is allowed",
        "unset DSPY_MLFLOW_LEVLE, or set it to what is allowed",
        "DSPY_MLFLOW_AUTOLOG=1",
    ]
    assert "DSPY_MLFLOW_LEVEL='loud' is ignored" in found[0][0]
    assert "did you mean DSPY_MLFLOW_LEVEL?" in found[1][0]


@pytest.mark.warns
def test_an_engine_that_cannot_serve(configured, monkeypatch, tmp_path):
    """An engine that a variable asks for in vain is a problem; the native one serves, and it says why."""
    monkeypatch.setenv("DSPY_MLFLOW_ENGINE", "recorded")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://me:secret@127.0.0.1:9/v1/traces")
    configured()
    found = diagnose()
    assert [remedy for _, remedy in told(found)] == ["unset DSPY_MLFLOW_ENGINE"]
    (callback,) = found.callbacks
    assert callback.engine == "native"
    assert ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" if missing_in_mlflow() is None else "MLflow") in callback.why
    assert (found.destination.kind, found.destination.address) == ("OTLP", "http://127.0.0.1:9/v1/traces")
    assert found.destination.answers is None


def test_a_destination_of_the_program(configured, dspy_traces):
    """`mlflow.tracing.set_destination` is named, and not asked."""
    configured()
    mlflow.tracing.set_destination(MlflowExperimentLocation(experiment_id=dspy_traces.experiment_id))
    try:
        found = diagnose().destination
    finally:
        mlflow.tracing.reset()
    assert found.kind == "mlflow.tracing.set_destination"
    assert dspy_traces.experiment_id in found.address
    assert found.answers is None


OFF = {
    "switched off": ({"enabled": False}, "is switched off: it records nothing.", "enabled=True"),
    "no trace": ({"sampling_ratio": 0}, "keeps no trace: sampling_ratio is 0.", "sampling_ratio=1.0"),
}


@pytest.mark.parametrize(("options", "what", "remedy"), OFF.values(), ids=OFF)
def test_a_callback_that_records_nothing(configured, options, what, remedy):
    """A callback that is there and records nothing is a problem, and the option that mends it is named."""
    configured(**options)
    ((said, mends),) = told(diagnose())
    assert said.endswith(what)
    assert mends == remedy


def test_a_variable_that_records_nothing(configured, monkeypatch):
    """Where a variable says so, it is the variable that is to be mended."""
    monkeypatch.setenv("DSPY_MLFLOW_ENABLED", "false")
    monkeypatch.setenv("DSPY_MLFLOW_SAMPLING_RATIO", "0")
    configured()
    assert [remedy for _, remedy in told(diagnose())] == [
        "unset DSPY_MLFLOW_ENABLED",
        "export DSPY_MLFLOW_SAMPLING_RATIO=1.0",
    ]


@pytest.mark.warns
def test_counts_that_are_problems(configured, dspy_traces):
    """What failed is a problem as long as the callback lives."""

    def broken(call):
        raise ZeroDivisionError

    callback = MlflowCallback(middleware=[broken])
    dspy.configure(callbacks=[callback])
    Echo()()
    ((what, remedy),) = told(diagnose())
    assert "has failed 1 times" in what
    assert remedy.startswith("mend the middleware")


def test_counts_of_traces():
    """Lost traces are a problem, and a queue that is nearly full is a note."""
    callback = MlflowCallback(max_queue_traces=10)
    callback._tracing._counters.lost()
    found = in_force.look_at_callback(callback, "here")
    full = in_force.attrs.evolve(found, stats=in_force.attrs.evolve(found.stats, queued=9))
    lost, waiting = in_force.of_callbacks([full])
    assert "has lost 1 traces" in lost.what
    assert (waiting.is_problem, waiting.what) == (False, "9 traces wait to be stored, of 10 that may.")


def test_the_callbacks_of_a_program(configured, dspy_traces):
    """Callbacks on a program, and on what it is made of, are looked at, each once, and told from DSPy's."""
    everywhere = configured()
    own = MlflowCallback(user="own")
    program = attach(Program(), own)
    program.generate.predict.callbacks = [own, MlflowCallback(user="inner")]
    found = diagnose(program).callbacks
    assert [(each.text.partition("user='")[2].partition("'")[0], each.place) for each in found] == [
        ("", "dspy.settings.callbacks"),
        ("own", "Program.callbacks"),
        ("inner", "Predict.callbacks"),
    ]
    assert found[0].text == repr(everywhere)
    lm = answering()
    lm.callbacks = [own]
    assert diagnose(lm).callbacks[1].place == "DummyLM.callbacks"


def test_autolog(dspy_traces, engine):
    """The callback of `autolog()` is in force, though nothing is configured."""
    with dspy.context(callbacks=[]):
        autolog(user="ada")
        try:
            (found,) = diagnose().callbacks
        finally:
            autolog(disable=True)
    assert found.place == "autolog()"
    assert "user='ada'" in found.text


@pytest.mark.engine("recorded")
def test_the_recorded_engine_where_it_serves(configured):
    """The variable that asks for the recorded engine is no problem where that one can serve."""
    configured()
    found = diagnose()
    assert told(found) == []
    assert found.callbacks[0].engine == "recorded"


# Where traces go


def test_experiments(configured, dspy_traces):
    """An experiment that is not there yet is a note, one that is deleted a problem with MLflow's command."""
    client = mlflow.MlflowClient()
    deleted = client.create_experiment("deleted")
    client.delete_experiment(deleted)
    dspy.configure(callbacks=[MlflowCallback(experiment=name) for name in ("new one", "deleted", "999999999")])
    found = diagnose()
    assert notes(found) == ["The experiment 'new one' of experiment= is not there yet: the first trace makes it."]
    gone, missing = told(found)
    assert gone == (
        "The experiment 'deleted' is deleted: traces for it are lost.",
        f"mlflow experiments restore -x {deleted}",
    )
    assert missing[0].startswith("The experiment '999999999' of experiment= is not there: ")
    assert [(each.said, each.id) for each in found.destination.experiments] == [
        ("new one", None),
        ("deleted", deleted),
        ("999999999", None),
    ]
    assert client.get_experiment_by_name("new one") is None


def test_experiments_of_variables(configured, dspy_traces, monkeypatch):
    """MLflow's variables are followed; two that contradict each other are a problem."""
    configured()
    monkeypatch.setattr("mlflow.tracking.fluent._active_experiment_id", None)
    assert [each.said for each in diagnose().destination.experiments] == ["Default"]
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", dspy_traces.experiment_id)
    assert [each.id for each in diagnose().destination.experiments] == [dspy_traces.experiment_id]
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "Default")
    ((what, remedy),) = told(diagnose())
    assert "MLflow refuses all traces" in what
    assert remedy == "unset MLFLOW_EXPERIMENT_ID"


def test_a_database_that_is_not_there_yet(configured, tmp_path):
    """A file that the first trace makes is not made by looking; where it cannot be made, that is a problem."""
    configured()
    with tracking_to(f"sqlite:///{tmp_path}/new.db"):
        found = diagnose()
    with tracking_to(f"sqlite:///{tmp_path}/nowhere/new.db"):
        ((what, _),) = told(diagnose())
    assert (found.destination.answers, found.destination.experiments) == (True, ())
    assert "the first trace makes it" in found.destination.details
    assert not (tmp_path / "new.db").exists()
    assert "nowhere is no folder in which new.db can be made" in what


def test_an_empty_database(configured, tmp_path):
    """A database without MLflow's tables stays without them."""
    configured()
    (tmp_path / "empty.db").touch()
    with tracking_to(f"sqlite:///{tmp_path}/empty.db"):
        found = diagnose().destination
    assert "the first trace makes MLflow's tables" in found.details
    assert (tmp_path / "empty.db").stat().st_size == 0


def test_a_database_that_cannot_be_written(configured, dspy_traces):
    """A database that would refuse traces is a problem with what it said."""
    configured()
    path = mlflow.get_tracking_uri().removeprefix("sqlite:///")
    with tracking_to(f"sqlite:///file:{path}?mode=ro&uri=true"):
        ((what, remedy),) = told(diagnose())
    assert "attempt to write a readonly database" in what
    assert remedy.startswith("start or mend the database")


def test_a_database_of_an_older_mlflow(configured, dspy_traces, monkeypatch):
    """For a database whose schema is not of this release MLflow's own command is the remedy."""
    assert health_destination._Store("sqlite:///old.db", 1)._away("run `mlflow db upgrade <uri>`").remedy == (
        "mlflow db upgrade sqlite:///old.db"
    )


def test_a_folder_of_files(configured, tmp_path, monkeypatch):
    """A store that is neither a database nor a server is asked for the experiment alone."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    configured(engine="native")
    with tracking_to((tmp_path / "mlruns").as_uri()):
        monkeypatch.setattr("mlflow.tracking.fluent._active_experiment_id", None)
        found = diagnose()
    assert found.destination.answers, found.destination
    assert [each.said for each in found.destination.experiments] == ["Default"]


def test_a_server_that_is_away(configured):
    """A server that does not answer is a problem; its address is told without credentials."""
    configured()
    with tracking_to("http://me:secret@127.0.0.1:9"):
        found = diagnose()
    ((what, remedy),) = told(found)
    assert what.startswith("Traces cannot be stored in http://127.0.0.1:9: ")
    assert "MLFLOW_TRACKING_URI" in remedy
    assert "secret" not in f"{found} {found.to_dict()}"
    assert found.destination.answers is False


SERVERS = {
    "takes them": (400, [], "MLflow 3.99"),
    "took the empty request": (200, [], "MLflow 3.99"),
    "has no such path": (404, ["it has no /v1/traces"], "MLflow 3.99"),
    "refuses": (403, ["/v1/traces answered 403"], "MLflow 3.99"),
}


@pytest.mark.parametrize(("status", "problems", "details"), SERVERS.values(), ids=SERVERS)
def test_a_server_that_answers(configured, httpserver, status, problems, details):
    """A server is asked whether it would take traces: a request without spans, which it cannot store."""
    configured()
    httpserver.expect_request("/version").respond_with_data("3.99")
    httpserver.expect_request("/v1/traces", method="POST").respond_with_data("no", status=status)
    experiment = {"experiment": {"experiment_id": "7", "name": "served", "lifecycle_stage": "active"}}
    httpserver.expect_request("/api/2.0/mlflow/experiments/get").respond_with_json(experiment)
    with tracking_to(httpserver.url_for("").rstrip("/")):
        found = diagnose()
    assert found.destination.details == details
    assert [(each.said, each.id) for each in found.destination.experiments] == [("served", "7")]
    assert len(told(found)) == len(problems)
    assert [said for said, (what, _) in zip(problems, told(found), strict=True) if said not in what] == []


# What stands beside


def test_mlflows_settings(configured, monkeypatch):
    """What in MLflow changes what is recorded is told, and what switches it off is a problem."""
    configured()
    monkeypatch.setenv("MLFLOW_TRACE_SAMPLING_RATIO", "0.5")
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
    mlflow.tracing.configure(span_processors=[lambda span: None])
    try:
        found = diagnose()
    finally:
        mlflow.tracing.configure(span_processors=[])
    assert told(found) == []
    assert [text.partition(" ")[0] for text in notes(found)] == ["MLFLOW_TRACE_SAMPLING_RATIO=0.5", "MLflow"]
    assert "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING" in str(found)
    assert found.callbacks[0].engine == "native"
    monkeypatch.setenv("MLFLOW_TRACE_SAMPLING_RATIO", "0")
    assert [remedy for _, remedy in told(diagnose())] == ["unset MLFLOW_TRACE_SAMPLING_RATIO"]
    monkeypatch.setenv("MLFLOW_TRACE_SAMPLING_RATIO", "half")
    assert told(diagnose()) == []


def test_mlflows_tracing_is_off(configured):
    """`mlflow.tracing.disable()` is a problem."""
    configured()
    mlflow.tracing.disable()
    try:
        found = diagnose()
    finally:
        mlflow.tracing.enable()
    assert [remedy for _, remedy in told(found)] == ["mlflow.tracing.enable()"]


def test_mlflows_autolog(configured, dspy_traces):
    """`mlflow.dspy.autolog()` beside this package is a problem."""
    from mlflow.dspy.callback import MlflowCallback as MlflowsOwn

    callback = configured()
    dspy.configure(callbacks=[callback, MlflowsOwn()])
    assert [remedy for _, remedy in told(diagnose())] == ["mlflow.dspy.autolog(disable=True)"]


def test_other_tracers(configured, monkeypatch):
    """A callback of another tracer in DSPy's settings is named, and so is OpenInference."""
    instrumentation = pytest.importorskip(OPENINFERENCE).DSPyInstrumentor()
    monkeypatch.setattr(type(instrumentation), "_is_instrumented_by_opentelemetry", True)
    weave = type("WeaveCallback", (dspy.utils.BaseCallback,), {"__module__": "weave.integrations.dspy"})
    plain = type("Mine", (dspy.utils.BaseCallback,), {})
    callback = configured()
    dspy.configure(callbacks=[callback, weave(), plain()])
    found = diagnose()
    assert told(found) == []
    assert notes(found) == [
        "OpenInference instruments DSPy: where MLflow gets its spans, it records in place of this package.",
        "weave.integrations.dspy.WeaveCallback traces DSPy's calls too.",
    ]


# How it is said


HOSTILE = "[red]x[/red]\x1b[31m\x07\u202e|<b>\n# `"


def test_a_report_obeys_no_content(configured):
    """What is said comes from users: in a terminal nothing of it is obeyed, nor markup of rich's."""
    configured(tags={"t": HOSTILE}, user=HOSTILE, engine="native")
    found = diagnose()
    for text in (str(found), found.to_markdown()):
        assert "red" in text
        assert [each for each in text if not each.isprintable() and each != "\n"] == []
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_report_fits_its_terminal(configured, capsys, width):
    """No line of the report is wider than the terminal."""
    configured(tags={"text": "x" * 300})
    diagnose().show(Console(width=width))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert "x" * 20 in "".join(lines)


def test_findings_come_first():
    """Problems stand before notes, at the head of the report, each with what mends it."""
    found = diagnose()
    findings = (Finding("It is so.", "run this"), Finding("By the way.", "that", is_problem=False))
    report = str(in_force.attrs.evolve(found, findings=findings))
    lines = [line for line in report.splitlines() if "│" in line][:2]
    assert [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines] == [
        ["problem", "It is so.", "run this"],
        ["note", "By the way.", "that"],
    ]


def test_a_report_without_findings():
    """A report in which nothing is found says so."""
    found = in_force.attrs.evolve(diagnose(), findings=())
    assert str(found).splitlines()[0].strip() == "No problem was found."


def test_diagnose_is_public():
    """`diagnose`, `Diagnosis` and `Finding` are names of the package."""
    assert {"diagnose", "Diagnosis", "Finding"} < set(dspy_mlflow_callbacks.__all__)
    assert "dspy_mlflow_callbacks.health" in sys.modules


def test_what_waits_in_the_spool(configured, tmp_path):
    """It says how many traces wait in the spool, how many were refused and how many have left, and what to do."""
    folder = tmp_path / "spool"
    spool = spool_at(folder, max_bytes=3_000)
    spool.add_all([(spooled_row(f"tr-{number}", 1_000), None) for number in range(4)])
    spool.reject([(spooled_row("tr-dead"), "bad trace")])
    spool.database.close()
    configured(spool_dir=folder)
    found = diagnose()
    (seen,) = found.spools
    assert (seen.folder, seen.dead_traces, bool(seen.traces), bool(seen.dropped)) == (str(folder), 1, True, True)
    assert told(found) == [
        (
            "1 traces in the spool were refused by their store",
            f"`dspy-mlflow spool status --spool-dir {folder}` says why; `spool flush --dead-letters` tries them again",
        ),
        (f"{seen.dropped} traces have left the spool unstored", "larger max_spool_bytes and max_spool_age_s"),
    ]
    assert f"{seen.traces} traces wait in the spool" in notes(found)
    assert f"{seen.traces} traces wait, 1 were refused" in str(found)


def test_a_spool_that_cannot_be_read(configured, tmp_path):
    """A file in the place of the spool's database is told with what to set."""
    folder = tmp_path / "spool"
    folder.mkdir()
    (folder / "spool.db").mkdir()
    configured(spool_dir=folder)
    ((what, remedy),) = told(diagnose())
    assert what.startswith(f"The spool in {folder} cannot be used: ")
    assert remedy == "spool_dir (DSPY_MLFLOW_SPOOL_DIR) names another folder"


def test_without_a_spool(configured):
    """Callbacks without a spool have none, and callbacks with the same one have one."""
    configured(spool_dir="")
    assert diagnose().spools == ()
