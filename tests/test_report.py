"""`trace_report` and `dspy-mlflow report`: what stored traces say together, as numbers and as a page."""

from __future__ import annotations

import builtins
import json
import re
import sqlite3
from contextlib import closing

import attrs
import dspy
import mlflow
import pytest
from cli_store import HOSTILE
from mlflow.entities import TraceInfo, TraceLocation, TraceState
from offline_lm import OfflineLM, Raw
from openai_server import BACKENDS, chat, choice, usage
from optimizers import compiled, copro
from programs import Program
from stored import tracking_to

from dspy_mlflow_callbacks import MlflowCallback, OptimizerRun, Stats, TraceReport, TrialResult, trace_report
from dspy_mlflow_callbacks.report import gathering, parts, plain_spans
from dspy_mlflow_callbacks.report.flames import flame
from dspy_mlflow_callbacks.report.gathering import Gathered
from dspy_mlflow_callbacks.report.latencies import Latencies
from dspy_mlflow_callbacks.report.plain_spans import PlainSpan
from dspy_mlflow_callbacks.report.sums import OTHER, Frame, Sum, Sums


@pytest.fixture(scope="module")
def cli_report(cli_traces):
    """Return the report on the shared traces."""
    with tracking_to(cli_traces.uri):
        return trace_report(experiments=[cli_traces.experiment], by="tag:team", ui_url="http://ui:5000/")


def test_traces_are_added_up(cli_report):
    """Calls, errors and durations are there in all, by program, by path, by model and by what was asked for."""
    said = cli_report.to_dict()
    assert (said["all"]["calls"], said["all"]["errors"]) == (4, 1)
    assert said["all"]["p50_ms"] <= said["all"]["p99_ms"]
    assert {name: each["calls"] for name, each in said["programs"].items()} == {"Program": 2, "Recovers": 1, "Fails": 1}
    assert {name: each["calls"] for name, each in said["groups"].items()} == {"search": 1, "(none)": 3}
    assert said["paths"]["Recovers.first"]["errors"] == 1
    assert said["paths"]["Program.generate.predict"]["calls"] == 2
    assert not any(name.startswith("ChatAdapter") for name in said["paths"])
    assert said["models"]["dummy"]["calls"] == 3
    assert json.dumps(said)


def test_tokens_and_cost_are_those_of_the_lms(dspy_traces, openai_server):
    """A path has the tokens and dollars of the LM calls below it, a cache hit and a model are counted."""
    text = choice("[[ ## reasoning ## ]]\nyes\n\n[[ ## answer ## ]]\n42\n\n[[ ## completed ## ]]")
    openai_server.script(*(chat(text, counts=usage(100, 20)) for _ in range(2)))
    lm = openai_server.lm(BACKENDS[0], cache=True)
    with dspy.context(lm=lm, callbacks=[MlflowCallback()]):
        for question in ("why?", "why?", "how?"):
            Program()(question=question)
    dspy_traces.all()
    said = trace_report(experiments=[dspy_traces.experiment_id], by="model").to_dict()
    assert (said["all"]["input_tokens"], said["all"]["output_tokens"], said["all"]["cache_hits"]) == (200, 40, 1)
    assert said["paths"]["Program"]["tokens"] == said["all"]["tokens"] == 240
    assert said["all"]["cost"] > 0
    ((model, counted),) = said["models"].items()
    assert counted["cost"] == pytest.approx(said["all"]["cost"])
    assert list(said["groups"]) == [model]


def test_an_adapter_that_takes_over_is_counted(dspy_traces):
    """Adapter fallbacks are added up."""
    lm = Raw("nothing", '{"reasoning": "because", "answer": "42"}')
    with dspy.context(lm=lm, callbacks=[MlflowCallback()]):
        Program()(question="why?")
    dspy_traces.all()
    assert trace_report(experiments=[dspy_traces.experiment_id]).to_dict()["all"]["adapter_fallbacks"] == 1


def test_optimizer_runs_are_told(dspy_traces):
    """Score and cost of each trial are on the page."""
    with dspy.context(lm=OfflineLM()):
        compiled(copro, [MlflowCallback(compile="summary")])
    dspy_traces.all()
    made = trace_report(experiments=[dspy_traces.experiment_id])
    (run,) = made.to_dict()["optimizer_runs"]
    assert run["optimizer"] == "COPRO"
    assert "<h3>COPRO <code>tr-" in made.to_html()
    assert "Chart: Score." in made.to_html()


WAYS = {
    "fingerprint": r"[0-9a-f]{16}",
    "model": r"dummy|\(none\)",
    "day": r"\d{4}-\d\d-\d\d",
    "tag:team": r"search|\(none\)",
}


@pytest.mark.parametrize("by", WAYS)
def test_groups(cli_traces, monkeypatch, by):
    """Traces can be grouped by the program's fingerprint, by model, by day and by a tag."""
    with tracking_to(cli_traces.uri):
        made = trace_report(experiments=[cli_traces.experiment], by=by, since="1h", limit=3)
    groups = made.to_dict()["groups"]
    assert sum(each["calls"] for each in groups.values()) == 3
    assert all(re.fullmatch(WAYS[by], name) for name in groups)
    assert f"<h2>By {by}</h2>" in made.to_html()


@pytest.mark.parametrize("by", ["colour", "tag:", 3])
def test_an_unknown_group_is_refused(by):
    """It says what is allowed."""
    with pytest.raises(ValueError, match="by must be one of fingerprint, tag:KEY, model, day"):
        trace_report(by=by)


def test_the_page_is_one_file(cli_report, tmp_path):
    """It has no address but those of the UI, and its policy forbids to load any."""
    cli_report.save(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "default-src 'none'" in text
    addresses = set(re.findall(r"""(?:src|href)=["']?([^"' >]+)""", text))
    assert {address.partition("#")[0] for address in addresses} == {"http://ui:5000/"}
    assert "url(" not in text


def test_nothing_in_a_trace_is_html(cli_traces, dspy_traces):
    """Names, models, tags and whatever else comes from traces are texts of the page."""
    hostile = "</script><img src=x onerror=alert(1)>\"'&\x1b[2J"
    program = Program()
    program.generate.predict.signature = program.generate.predict.signature.with_instructions(HOSTILE)
    lm = OfflineLM()
    lm.model = hostile
    with dspy.context(lm=lm, callbacks=[MlflowCallback(tags={"team": hostile})]), mlflow.start_span(hostile):
        program(question=hostile)
    dspy_traces.all()
    made = trace_report(
        experiments=[dspy_traces.experiment_id], by="tag:team", ui_url='x"><b>', stats={hostile: hostile}
    )
    text = made.to_html()
    assert "&lt;/script&gt;&lt;img" in text
    assert "<img" not in text
    assert text.count("</script>") == 1
    assert "\x1b" not in text
    assert 'href="x&quot;&gt;&lt;b&gt;/#/' in text


def test_counters_of_the_program(cli_report):
    """What was sampled out or dropped is told if the program says it; else the page says where it is counted."""
    assert "<code>callback.stats()</code>" in cli_report.to_html()
    stats = MlflowCallback().stats()
    assert isinstance(stats, Stats)
    assert "<table" in parts.counters({"dropped": 3})
    assert trace_report(since="2999-01-01", stats=stats).stats["dropped"] == 0


def test_trials_without_scores_and_with_cost():
    """An optimizer whose trials have no scores is told with what is known of them, such as their cost."""
    said = {"batch": None, "examples": 1, "lm_calls": 1, "tokens": {}, "duration_s": 1.0, "status": "OK"}
    more = {"fingerprint": None, "instructions": "", "demos": {}, "example_traces": ()}
    trials = tuple(
        TrialResult(index=number, score=None, cost_usd=cost, **said, **more) for number, cost in ((1, 0.5), (2, None))
    )
    run = OptimizerRun(
        optimizer="Mine", trace_id="tr-1", status="OK", duration_s=1.0, trials=trials, spent={}, inner=()
    )
    drawn = parts.optimizer(run)
    assert "OK, 2 trials, 1 s.</p>" in drawn
    assert "Chart: Cost." in drawn
    assert "Chart: Score." not in drawn
    assert "Chart" not in parts.optimizer(attrs.evolve(run, trials=()))


def test_traces_are_read_in_pages(cli_traces, cli_report, monkeypatch):
    """Where there are more than fit in memory they are read in pages: the numbers are the same."""
    monkeypatch.setattr(plain_spans, "PAGE", 2)
    with tracking_to(cli_traces.uri):
        again = trace_report(experiments=[cli_traces.experiment], by="tag:team")
    assert again.to_dict()["programs"] == cli_report.to_dict()["programs"]


def test_nothing_to_report(dspy_traces):
    """An empty experiment has a page too."""
    made = trace_report(experiments=[dspy_traces.experiment_id])
    assert isinstance(made, TraceReport)
    assert "Nothing is known of it." in made.to_html()


def test_it_says_what_it_needs(cli_report, monkeypatch):
    """Without the extra it says how to install it."""
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "vl_convert":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'dspy-mlflow-callbacks\[report\]'"):
        cli_report.to_html()


def test_percentiles_are_right_to_a_percent():
    """Of any durations, from none to a hundred thousand."""
    latencies = Latencies()
    assert latencies.percentile(0.5) is None
    assert list(latencies.histogram()) == []
    for number in range(1, 100_001):
        latencies.add(number / 10)
    for share in (0.01, 0.5, 0.95, 0.99, 1.0):
        assert latencies.percentile(share) == pytest.approx(share * 10_000, rel=0.011)
    bars = list(latencies.histogram())
    assert len(bars) <= 24
    assert sum(count for _, _, count in bars) == 100_000
    assert [low for low, _, _ in bars[1:]] == pytest.approx([high for _, high, _ in bars[:-1]])


def test_what_is_kept_is_bounded(monkeypatch):
    """Names, places in the tree and its depth beyond a number are one, and the heaviest traces are kept."""
    sums, root = Sums(2), Frame("all")
    for name in "abcab":
        sums.of(name).calls += 1
        root.child(name, 2).calls += 1
    assert {name: each.calls for name, each in sums.items()} == {"a": 2, "b": 2, OTHER: 1}
    assert {name: each.calls for name, each in root.below.items()} == {"a": 2, "b": 2, OTHER: 1}
    gathered = Gathered()
    for number in range(30):
        gathered.add(info(f"tr-{number}", took=number), deep(30))
    assert sorted(each.weight for each in gathered.slowest) == list(range(20, 30))
    depth, frame = 0, gathered.frames
    while frame.below:
        (frame,) = frame.below.values()
        depth += 1
    assert depth == gathering._MOST_DEPTH


def info(trace_id, took=1, time_ms=1_700_000_000_000):
    return TraceInfo(trace_id, TraceLocation.from_experiment_id("1"), time_ms, TraceState.OK, execution_duration=took)


def deep(count, **attributes):
    return [
        PlainSpan(
            {
                "name": f"step {number}",
                "span_id": str(number),
                "parent_span_id": str(number - 1) if number else None,
                "start_time_unix_nano": number,
                "end_time_unix_nano": None if number == 3 else 10**9 - number,
                "status": {"code": "STATUS_CODE_OK"},
                "events": [],
                "attributes": {"mlflow.spanType": '"CHAIN"', **attributes},
            }
        )
        for number in range(count)
    ]


def test_attributes_that_are_no_json():
    """An attribute is read as JSON, else as the text that it is."""
    (span,) = deep(1, mine="Infinity", other="why?")
    assert (span.get_attribute("mine"), span.get_attribute("other"), span.get_attribute("no")) == (
        "Infinity",
        "why?",
        None,
    )


def test_a_store_without_tables_is_read_by_mlflow(cli_traces, cli_report, monkeypatch):
    """Where the store is no SQL store, or has spans elsewhere, MLflow reads them: the numbers are the same."""
    monkeypatch.setattr(plain_spans.internals, "span_texts", lambda uri, ids: None)
    with tracking_to(cli_traces.uri):
        again = trace_report(experiments=[cli_traces.experiment], by="tag:team")
    assert again.to_dict()["paths"] == cli_report.to_dict()["paths"]


HOURS = {"by hour": (range(3), 3), "by day": (range(24 * 10), 10), "by weeks": (range(0, 24 * 700, 24), 88)}


def test_texts_of_spans_are_those_of_an_sql_store(dspy_traces, tmp_path):
    """A tracking server has none, and what a store has moved away is left out."""
    with dspy.context(lm=OfflineLM()):
        Program()(question="why?")
    (trace,) = dspy_traces.all()
    ids, uri = [trace.info.trace_id], mlflow.get_tracking_uri()
    assert plain_spans.internals.span_texts("http://127.0.0.1:9", ids) is None
    assert len(plain_spans.internals.span_texts(uri, ids)[ids[0]]) == len(trace.data.spans)
    copy = tmp_path / "copy.db"  # other tests have the store too
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database, closing(sqlite3.connect(copy)) as copied:
        database.backup(copied)
        copied.execute("UPDATE spans SET content = '' WHERE trace_id = ?", ids)
        copied.commit()
    assert plain_spans.internals.span_texts(f"sqlite:///{copy}", ids) == {}


@pytest.mark.parametrize(("hours", "bars"), HOURS.values(), ids=HOURS)
def test_time_is_cut_as_it_fits(hours, bars):
    """Three days are shown by hour, three months by day, years by as many days as fit."""
    calls, *_ = parts.over_time({hour: Sum(calls=1) for hour in hours})
    assert len(calls.labels) == pytest.approx(bars, abs=1)
    assert sum(calls.series["fine"]) == len(hours)
    assert len(set(calls.labels)) == len(calls.labels)


def test_what_was_spent_is_drawn_over_time():
    """Tokens and cost have charts of their own, where there are any."""
    charts = parts.over_time({0: Sum(calls=1, input_tokens=3, cost=0.1), 1: Sum(calls=1, output_tokens=2)})
    assert [(chart.title, list(chart.series.values())) for chart in charts][1:] == [
        ("Tokens", [[3, 0], [0, 2]]),
        ("Cost", [[0.1, 0.0]]),
    ]


def test_numbers_have_units():
    """Durations and dollars are said with their units; two bars never have one label."""
    assert [parts.milliseconds(value) for value in (None, 2.5, 2500)] == ["", "2.5 ms", "2.5 s"]
    assert parts._unlike(["a", "b", "a"]) == ["a (0)", "b", "a (2)"]


def test_a_flame_is_as_wide_as_its_time():
    """Each box has its share of the width, below what called it."""
    root = Frame("all")
    program = root.child("Program", 9)
    program.milliseconds, program.calls, program.cost = 100.0, 1, 0.5
    program.child("<b>", 9).milliseconds = 25.0
    drawn = flame(root, "milliseconds")
    assert 'style="left:0.0000%;width:100.0000%;top:0px"' in drawn
    assert 'style="left:0.0000%;width:25.0000%;top:26px"' in drawn
    assert "&lt;b&gt;: 0 calls, 25 ms, 25.0%" in drawn


def test_the_command_writes_a_page(cli_traces, run_cli, tmp_path):
    """`dspy-mlflow report` writes the page, or prints the numbers."""
    file, stats = tmp_path / "report.html", tmp_path / "stats.json"
    stats.write_text('{"dropped": 7}')
    options = ["--tracking-uri", cli_traces.uri, "--experiment", cli_traces.experiment, "--stats", stats]
    assert run_cli("report", *options, "-o", file)[:2] == (0, f"Written to {file}.\n")
    assert "<td>7</td>" in file.read_text()
    said = json.loads(run_cli("report", *options, "--json", "--by", "day")[1])
    assert (said["all"]["calls"], said["stats"]) == (4, {"dropped": 7})
    status, _, errors = run_cli("report", *options, "--by", "colour")
    assert status == 2
    assert "by must be one of" in errors
