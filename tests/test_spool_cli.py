"""The command `dspy-mlflow spool`: what waits is shown, delivered, and written to files that other tools read."""

from __future__ import annotations

import json

import attrs
import pytest
from ended import EndedTrace, new_destination, stored_ids
from google.protobuf.json_format import ParseDict
from mlflow.entities.model_registry import PromptVersion
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from spooled_traces import AwayStore, spool_at, spooled_row, status_of

from dspy_mlflow_callbacks.cli import main
from dspy_mlflow_callbacks.export.batch import Entry
from dspy_mlflow_callbacks.export.spool.contents import row_of
from dspy_mlflow_callbacks.export.spool.settings import SpoolSettings
from dspy_mlflow_callbacks.export.spool_flush import flush
from dspy_mlflow_callbacks.export.waiting import Destination

pytestmark = pytest.mark.engine("auto")


@pytest.fixture
def database(tmp_path):
    return new_destination(f"sqlite:///{tmp_path}/mlflow.db", "x")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "spool"


@pytest.fixture
def fill(folder):
    """Return what puts ended traces into the spool, some as dead letters, and returns them."""

    def fill(destination, waiting=2, dead=0, reason="bad trace", **extras):
        spool = spool_at(folder)
        traces = [EndedTrace(destination, **extras) for _ in range(waiting + dead)]
        rows = [row_of(Entry(0, trace, 1, trace.prepared()), 1e12) for trace in traces]
        spool.add_all([(row, None) for row in rows[:waiting]])
        spool.reject([(row, reason) for row in rows[waiting:]])
        spool.database.close()
        return traces

    return fill


@pytest.fixture
def run(folder, capsys):
    """Return what runs the command, and returns its status, output and errors."""

    def run(action, *arguments, at=folder):
        capsys.readouterr()  # MLflow tells of the database that it makes
        with pytest.raises(SystemExit) as exited:
            main(["spool", action, *map(str, arguments), *(["--spool-dir", str(at)] if at else [])])
        return (exited.value.code, *capsys.readouterr())

    return run


NOWHERE = Destination(tracking_uri="http://127.0.0.1:9", experiment_id="1", run_id="r1")


def test_status_says_what_waits(run, fill, folder):
    """It says how many traces wait and were refused, for which store, and why; as JSON too."""
    fill(NOWHERE, waiting=3, dead=1)
    status, said, errors = run("status")
    assert (status, errors) == (0, "")
    assert said.splitlines()[0] == f"{folder}: 3 traces wait, 1 were refused."
    assert "3 traces, " in said
    assert " for http://127.0.0.1:9, experiment 1, run r1\n" in said
    assert said.rstrip().endswith("for http://127.0.0.1:9, experiment 1, run r1: bad trace")
    found = json.loads(run("status", "--json")[1])
    assert found == status_of(folder).to_dict()
    assert (found["traces"], found["dead_letters"][0]["reason"]) == (3, "bad trace")


def test_status_of_an_empty_spool(run, folder):
    """A folder in which nothing was spooled has nothing."""
    folder.mkdir()
    assert run("status") == (0, f"{folder}: 0 traces wait, 0 were refused.\n", "")


def test_status_says_what_was_dropped(run, fill, folder):
    """What left unstored is said."""
    fill(NOWHERE)
    spool = spool_at(folder, max_bytes=1)
    spool.add_all([])
    spool.database.close()
    assert run("status")[1].endswith("Since it began: 2 dropped for want of room.\n")


def test_a_terminal_is_not_told_what_to_do(run, fill):
    """What a store said is shown, and not obeyed."""
    fill(NOWHERE, dead=1, reason="\x1b[2Jgone")
    assert "\\x1b[2Jgone" in run("status")[1]


def test_flush_delivers(run, fill, database, folder):
    """What waits is stored; the status is 0, and nothing is left."""
    traces = fill(database)
    assert run("flush") == (0, "2 traces delivered, 0 left, 0 refused.\n", "")
    assert stored_ids(database) == sorted(trace.id for trace in traces)
    assert json.loads(run("flush", "--json")[1]) == {"delivered": 0, "left": 0, "dead_letters": 0}


@pytest.mark.warns
def test_flush_leaves_what_cannot_be_delivered(run, fill, database, warned):
    """Where a store is away its traces stay, the others are stored, it is said why, and the status is 1."""
    fill(NOWHERE)
    traces = fill(database)
    status, said, _ = run("flush")
    assert (status, said) == (1, "2 traces delivered, 2 left, 0 refused.\n")
    (reason,) = warned.messages
    assert reason.startswith("Traces are not stored in http://127.0.0.1:9: ")
    assert stored_ids(database) == sorted(trace.id for trace in traces)


def test_flush_leaves_what_names_no_store(run, fill, database, folder):
    """What cannot be read as a destination stays where it is, and holds up no other."""
    traces = fill(database)
    spool = spool_at(folder)
    spool.add(spooled_row(destination="{}", ended=1e12), is_mine=False)
    spool.database.close()
    assert run("flush")[:2] == (1, "2 traces delivered, 1 left, 0 refused.\n")
    assert stored_ids(database) == sorted(trace.id for trace in traces)


@pytest.mark.warns
def test_flush_says_that_a_store_is_away(fill, folder, warned):
    """A store that takes neither traces of spans alone nor others is said to be away, once."""
    fill(NOWHERE)
    fill(NOWHERE, prompts=[PromptVersion("greeting", 3, "Hello")])
    assert flush(SpoolSettings(folder=str(folder)), write=AwayStore()) == 0
    assert warned.messages == ["Traces are not stored in http://127.0.0.1:9: away. They are kept in the spool."]
    assert status_of(folder).traces == 4


def test_flush_tries_dead_letters_when_told_to(run, fill, database):
    """What was refused is delivered where its store takes it now."""
    traces = fill(database, waiting=1, dead=2)
    assert run("flush") == (0, "1 traces delivered, 0 left, 2 refused.\n", "")
    assert run("flush", "--dead-letters") == (0, "2 traces delivered, 0 left, 0 refused.\n", "")
    assert stored_ids(database) == sorted(trace.id for trace in traces)


@pytest.mark.warns
def test_flush_says_that_dead_letters_are_refused_again(run, fill, database):
    """What is refused again is a dead letter again, and the status is 1."""
    fill(attrs.evolve(database, experiment_id="98765"), waiting=0, dead=2)
    assert run("flush", "--dead-letters")[:2] == (1, "0 traces delivered, 0 left, 2 refused.\n")


@pytest.mark.parametrize("dead_letters", [False, True])
def test_export_writes_what_opentelemetry_reads(run, fill, tmp_path, dead_letters):
    """A line of OTLP/JSON for each trace, with hexadecimal ids and all that its spans say; the spool keeps it."""
    traces = fill(NOWHERE, waiting=2, dead=1)
    file = tmp_path / "traces.jsonl"
    arguments = ["--dead-letters"] if dead_letters else []
    count = 3 if dead_letters else 2
    assert run("export", file, *arguments) == (0, f"{count} traces written to {file}.\n", "")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    found = [line["resourceSpans"][0]["scopeSpans"][0]["spans"] for line in lines]
    assert [[(span["traceId"], span["spanId"], span["name"]) for span in spans] for spans in found] == [
        [(f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}", span.name) for span in trace.spans]
        for trace in traces[:count]
    ]
    assert [span.get("parentSpanId") for span in found[0]] == [None, *[found[0][0]["spanId"]] * 2]
    assert found[0][0]["status"] == {"code": 1}
    for line in lines:
        ParseDict(line, ExportTraceServiceRequest())  # it is one, but for what base64 makes of the ids
    assert status_of(folder_of(file)).traces == 2
    assert file.stat().st_mode & 0o777 == 0o600


def folder_of(file):
    return file.parent / "spool"


def test_export_writes_protobuf(run, fill, tmp_path):
    """A file for each trace holds the request that a collector would get."""
    traces = fill(NOWHERE)
    out = tmp_path / "out"
    assert json.loads(run("export", out, "--format", "protobuf", "--json")[1]) == {"written": 2, "output": str(out)}
    files = sorted(out.iterdir())
    assert [file.name for file in files] == [f"00000{number}-{trace.id}.pb" for number, trace in enumerate(traces)]
    requests = [ExportTraceServiceRequest.FromString(file.read_bytes()) for file in files]
    assert [len(request.resource_spans[0].scope_spans[0].spans) for request in requests] == [3, 3]


def test_export_overwrites_nothing(run, fill, tmp_path):
    """A file that is there stays, and the status is 2."""
    fill(NOWHERE)
    (tmp_path / "there").write_text("mine")
    status, said, errors = run("export", tmp_path / "there")
    assert (status, said) == (2, "")
    assert errors.startswith("dspy-mlflow spool: ")
    assert (tmp_path / "there").read_text() == "mine"


@pytest.mark.parametrize("action", ["status", "flush"])
def test_a_spool_that_is_not_there(run, tmp_path, action):
    """A folder that is not there is said, with status 2."""
    nowhere = tmp_path / "nowhere"
    message = f"dspy-mlflow spool: there is no folder {nowhere}: nothing has been spooled there\n"
    assert run(action, at=nowhere) == (2, "", message)


def test_no_spool_at_all(run, monkeypatch):
    """Where the variable says that there is none, the command says so."""
    monkeypatch.setenv("DSPY_MLFLOW_SPOOL_DIR", "")
    status, _, errors = run("status", at=None)
    assert (status, errors) == (
        2,
        "dspy-mlflow spool: there is none: DSPY_MLFLOW_SPOOL_DIR is empty; --spool-dir names one\n",
    )


def test_the_folder_of_the_variable(run, fill, folder, monkeypatch):
    """Without `--spool-dir` it is the one of the variable."""
    fill(NOWHERE)
    monkeypatch.setenv("DSPY_MLFLOW_SPOOL_DIR", str(folder))
    assert run("status", at=None)[1].startswith(f"{folder}: 2 traces wait")


@pytest.mark.warns
@pytest.mark.parametrize("action", ["status", "flush"])
def test_what_is_no_database_is_said(run, folder, action):
    """A spool that cannot be read is an error with status 2; delivery sets it aside and begins anew."""
    folder.mkdir()
    (folder / "spool.db").write_bytes(b"no database" * 1000)
    status, _, errors = run(action)
    assert (status, "not a database" in errors) == ((2, True) if action == "status" else (0, False))


def test_links_keep_their_ids():
    """Links keep their ids in OTLP/JSON."""
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import Link

    from dspy_mlflow_callbacks.export.otlp import request_of_values
    from dspy_mlflow_callbacks.export.spool.exporting import as_json

    first, second = EndedTrace().spans[:2]
    linked = ReadableSpan(name="linked", context=first.context, links=[Link(second.context)], resource=first.resource)
    (span,) = as_json(request_of_values([linked]))["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert span["links"] == [{"traceId": f"{second.context.trace_id:032x}", "spanId": f"{second.context.span_id:016x}"}]
