"""`dspy-mlflow export` and `import`: traces go to a file and come back, as often as one likes."""

from __future__ import annotations

import io
import json
import stat
import sys
import uuid

import mlflow
import pytest

from dspy_mlflow_callbacks.cli.exporting import _is_shown

FORMS = ["json", "otlp"]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "traces"


@pytest.fixture
def export(run_cli, cli_traces):
    """Return what exports the store's traces, and returns status, output and errors."""
    return lambda *options: run_cli(
        "export", "--tracking-uri", cli_traces.uri, "--experiment", cli_traces.experiment, *options
    )


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """Return another store, which the tests of this file share."""
    folder = tmp_path_factory.mktemp("elsewhere")
    return f"sqlite:///{folder}/mlflow.db"


def found(uri, experiment):
    client = mlflow.MlflowClient(uri)
    ids = [client.get_experiment_by_name(experiment).experiment_id]
    return {trace.info.trace_id: trace for trace in client.search_traces(locations=ids)}


def spans_of(trace):
    spans = [span.to_dict() for span in trace.data.spans]
    for span in spans:
        attributes = {key: json.loads(value) for key, value in span["attributes"].items()}
        # A root that goes by OTLP carries the trace's tags; it may have done so before.
        span["attributes"] = {key: value for key, value in attributes.items() if not key.startswith("mlflow.traceTag.")}
    return sorted(spans, key=lambda span: span["span_id"])


@pytest.fixture
def fresh(export):
    """Return a line of a trace with an id that no store has, and that id."""
    line = export("--limit", "1", "--format", "otlp")[1]
    before = json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["traceId"]
    after = uuid.uuid4().hex
    return line.replace(before, after), f"tr-{after}"


@pytest.mark.engine("recorded")  # where MLflow has not what it needs, it reads no tags from spans either
@pytest.mark.parametrize("form", FORMS)
def test_what_was_exported_can_be_imported(export, run_cli, cli_traces, elsewhere, file, form):  # noqa: PLR0917  (fixtures)
    """Traces come back with their ids, spans, state, times, tokens and tags; a second import changes nothing."""
    experiment = f"from {form}"
    status, output, errors = export("--format", form, "--output", file)
    assert (status, output, errors) == (0, "", f"4 traces exported to {file}.\n")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    client = mlflow.MlflowClient(cli_traces.uri)
    for line in file.read_text().splitlines():
        assert json.loads(line)
    uri = elsewhere if form == "json" else elsewhere.replace("mlflow.db", "otlp.db")
    arguments = ["import", file, "--experiment", experiment, "--tracking-uri", uri]
    assert run_cli(*arguments)[:2] == (0, "4 traces stored, 0 were there already.\n")
    first = found(uri, experiment)
    assert json.loads(run_cli(*arguments, "--json")[1]) == {"stored": 0, "skipped": 4}
    for trace_id in cli_traces.ids:
        before, after = client.get_trace(trace_id), first[trace_id]
        assert spans_of(after) == spans_of(before)
        assert (after.info.state, after.info.request_time) == (before.info.state, before.info.request_time)
        assert after.info.token_usage == before.info.token_usage
        assert after.info.tags.get("team") == before.info.tags.get("team")
        assert after.info.tags["mlflow.traceName"] == before.info.tags["mlflow.traceName"]


def test_lines_go_to_standard_output(export, cli_traces):
    """Without a file the lines are printed, and how many there were is said elsewhere."""
    status, output, errors = export("--json", "--name", "Program", "--limit", "1")
    assert (status, errors) == (0, "1 traces exported.\n")
    assert json.loads(output)["info"]["trace_id"] == cli_traces.ids[3]


def test_a_file_that_is_there_is_left_alone(export, tmp_path):
    """An export writes over nothing."""
    file = tmp_path / "traces"
    file.write_text("mine")
    assert export("--output", file)[0] == 2
    assert file.read_text() == "mine"


def test_lines_come_from_standard_input(fresh, run_cli, elsewhere, monkeypatch):
    """`-` is standard input, where empty lines mean nothing; an experiment may be given by its id."""
    experiment = mlflow.MlflowClient(elsewhere).create_experiment("by id")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"\n{fresh[0]}".encode())))
    status, output, _ = run_cli("import", "-", "--experiment", experiment, "--tracking-uri", elsewhere)
    assert (status, output) == (0, "1 traces stored, 0 were there already.\n")
    assert list(found(elsewhere, "by id")) == [fresh[1]]


def test_the_active_experiment_takes_them_by_default(fresh, run_cli, file, dspy_traces):
    """Without `--experiment` traces go to the active one of MLflow."""
    file.write_text(fresh[0])
    assert run_cli("import", file)[0] == 0
    assert fresh[1] in {trace.info.trace_id for trace in dspy_traces.all()}


BAD = {
    "no JSON": "why?",
    "another JSON": '{"info": 1}',
    "a list": "[1]",
    "ids that are none": '{"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "ab", "spanId": "cd"}]}]}]}',
    "no ids": '{"resourceSpans": [{"scopeSpans": [{"spans": [{"name": "x"}]}]}]}',
}


@pytest.mark.parametrize("line", BAD.values(), ids=BAD)
def test_a_line_without_a_trace_ends_the_import(fresh, run_cli, elsewhere, file, line):
    """It says which line it was, exits with 2, and what stood before is stored."""
    file.write_text(f"{fresh[0]}{line}\n")
    status, output, errors = run_cli("import", file, "--experiment", "bad lines", "--tracking-uri", elsewhere)
    assert (status, output) == (2, "")
    assert "line 2: no trace in MLflow's JSON or in OTLP/JSON" in errors
    assert fresh[1] in found(elsewhere, "bad lines")


def test_a_file_that_is_not_there(run_cli, elsewhere):
    """It exits with 2 and says so."""
    status, _, errors = run_cli("import", "nowhere.jsonl", "--tracking-uri", elsewhere)
    assert status == 2
    assert "nowhere.jsonl" in errors


def test_a_progress_bar_is_for_terminals(tmp_path, monkeypatch):
    """It is shown where standard error is a terminal, and the lines do not go to one."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    assert not _is_shown(tmp_path)
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert _is_shown(tmp_path)
    assert _is_shown(None)
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert not _is_shown(None)
