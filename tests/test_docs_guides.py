"""The pages without a test file of their own: their blocks run as they stand, and say what is so."""

from __future__ import annotations

import inspect
import re

import dspy
import mlflow
import pytest
from docs_blocks import ROOT, Page
from ended import EndedTrace
from programs import Program, answering

from dspy_mlflow_callbacks import MlflowCallback, autolog
from dspy_mlflow_callbacks.config import OPTIONS
from dspy_mlflow_callbacks.export.otlp_reader import spans_of
from dspy_mlflow_callbacks.export.waiting import Limits

ARCHITECTURE = Page("docs/architecture.md")
COMING = Page("docs/coming_from.md")


def test_the_first_trace(tmp_path, dspy_traces, capsys):
    """The block on the first page stores a trace, and prints what stands below it."""
    page = Page("docs/index.md")
    page.run("set_tracking_uri", ("sqlite:///mlflow.db", f"sqlite:///{tmp_path}/mlflow.db"))
    assert capsys.readouterr().out == page.block("ChatAdapter.format", "text")


def test_a_program_of_ones_own_callback():
    """The block on attaching attaches, and takes off again."""
    program = dspy.Predict("question -> answer")
    Page("docs/overrides.md").run("detach(program)", program=program)
    assert program.callbacks == []


def test_finding_traces(dspy_traces):
    """The block on searches finds what failed, and what has a tag."""
    with dspy.context(lm=answering(), callbacks=[MlflowCallback(tags={"team": "search"})]):
        Program()(question="why?")
    with pytest.raises(ZeroDivisionError):
        dspy.Tool(lambda: 1 / 0, name="fails")()
    mlflow.flush_trace_async_logging()
    names = Page("docs/spans.md").run("status = 'ERROR'")
    found = [[trace.data.spans[0].name for trace in names[name]] for name in ("failed", "of_a_team")]
    assert found == [["fails"], ["Program"]]


def test_session_user_and_tags(dspy_traces):
    """The block gives a trace what it says."""
    with dspy.context(lm=answering()):
        COMING.run("trace_context(session_id", program=Program())
    info = dspy_traces.one().info
    metadata = info.trace_metadata
    said = [metadata["mlflow.trace.session"], metadata["mlflow.trace.user"], metadata["region"], info.tags["tenant"]]
    assert said == ["s-1", "ada", "eu", "acme"]


def test_the_drop_in_for_mlflows(dspy_traces):
    """The block traces, and the two functions have the same seven arguments, as the page says."""
    try:
        COMING.run("autolog()")
        with dspy.context(lm=answering(), callbacks=[]):
            Program()(question="why?")
    finally:
        autolog(disable=True)
    assert dspy_traces.one().data.spans[0].name == "Program"
    ours, theirs = (list(inspect.signature(each).parameters.values()) for each in (autolog, mlflow.dspy.autolog))
    assert [(each.name, each.default) for each in ours[:7]] == [(each.name, each.default) for each in theirs]


def test_the_tables_name_what_there_is():
    """Each option and each attribute of ours in the tables' right column exists."""
    rights = [line.split(" | ")[-1] for line in COMING.text.splitlines() if line.startswith("| ")]
    options = {name for right in rights for name in re.findall(r"`([a-z_]+)=[^`(]*`", right)}
    assert options - set(OPTIONS) == set()
    variables = {name for right in rights for name in re.findall(r"`DSPY_MLFLOW_([A-Z_]+)", right)}
    assert {name.lower() for name in variables} - set(OPTIONS) == set()


# Architecture


def test_a_middleware_of_ones_own(dspy_traces):
    """The block's middleware holds what the next block asserts, and does so in a program."""
    names = ARCHITECTURE.run("class ShortAnswers")
    ARCHITECTURE.run("def a_call(", **names)
    step = names["ShortAnswers"](max_chars=3, hidden=["secret"])
    with dspy.context(callbacks=[MlflowCallback(middleware=[step])]):
        dspy.Tool(lambda: "four", name="tells")()
        dspy.Tool(lambda: "four", name="secret")()
    assert dspy_traces.one().data.spans[0].get_attribute("answers.is_long") is True


def test_what_a_describer_says():
    """The block on describers holds what it asserts."""
    ARCHITECTURE.run("describe_start(call)")


def test_an_exporter_of_ones_own(own_folder):
    """The block's exporter stores what it is handed, and OTLP's reader reads it."""
    names = ARCHITECTURE.run("class FileStore")
    exporter = ARCHITECTURE.run("exporter = Exporter(", **names)["exporter"]
    trace = EndedTrace()
    exporter.put(trace, Limits())
    assert exporter.flush(60)
    assert trace.outcome() == "stored"
    body = names["Path"]("traces.otlp").read_bytes()
    assert int.from_bytes(body[:4], "big") == len(body) - 4
    assert len(list(spans_of(body[4:]))) == len(trace.spans)


def test_the_rooms_are_there():
    """Each room in the table is a file or folder of the package."""
    from test_structure import MAY_IMPORT

    named = {room for row in ARCHITECTURE.rows("| room |") for room in re.findall(r"`(\w+)(?:/|\.py)`", row[0])}
    assert named - set(MAY_IMPORT) == set()


# The dashboard


def test_the_dashboards_files_are_there():
    """The page's table has the files of the example, but for the one that points to the page."""
    named = [row[0].strip("`") for row in Page("docs/dashboard.md").rows("| file |")]
    there = {path.name for path in (ROOT / "examples" / "dashboard").iterdir() if path.is_file()}
    assert set(named) == there - {"README.md"}


def test_the_service_sets_its_metrics_up_as_the_page_says():
    """The page's block is what the example does, which `make test-dashboard` runs."""
    block = Page("docs/dashboard.md").block("PrometheusMetricReader()")
    service = (ROOT / "examples" / "dashboard" / "service.py").read_text(encoding="utf-8")
    lines = [line for line in block.splitlines() if line and not line.startswith("start_http_server(")]
    assert [line for line in lines if line not in service] == []
