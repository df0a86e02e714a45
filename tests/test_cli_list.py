"""`dspy-mlflow list` and `show`: what they find, how it is printed, and that no trace commands the terminal."""

from __future__ import annotations

import gc
import json
import os
import pty
import re
import subprocess
import sys

import dspy
import pytest
from cli_store import HOSTILE
from programs import Echo
from rich.cells import cell_len

from dspy_mlflow_callbacks import MlflowCallback
from dspy_mlflow_callbacks.cli.rows import Rows, dollars, duration, terminal
from dspy_mlflow_callbacks.cli.searching import with_store
from dspy_mlflow_callbacks.stored.facts import Facts, answers_of, messages_of, text_of
from dspy_mlflow_callbacks.stored.search import Search, since_ms, traces


@pytest.fixture
def listed(run_cli, cli_traces):
    """Return what lists the store with options, and returns the traces as JSON."""

    def listed(*options):
        status, output, _ = run_cli(
            "list", "--tracking-uri", cli_traces.uri, "--experiment", cli_traces.experiment, *options, "--json"
        )
        assert status == 0
        return json.loads(output)

    return listed


def test_the_newest_come_first(listed, cli_traces):
    """Each trace is there with its id, time, name, status, duration, tokens, cost, failed spans and tags."""
    found = listed()
    assert [each["trace_id"] for each in found] == list(reversed(cli_traces.ids))
    assert [(each["name"], each["status"], each["errors"]) for each in found] == [
        ("Program", "OK", 0),
        ("Recovers", "OK", 1),
        ("Fails", "ERROR", 1),
        ("Program", "OK", 0),
    ]
    assert found[0]["tags"] == {"team": "search"}
    assert list(found[0]) == [field.name for field in Facts.__attrs_attrs__]


FILTERS = {
    "a status": (["--status", "error"], [1]),
    "a name": (["--name", "Recovers"], [2]),
    "a part of a name": (["--name", "Pro*"], [3, 0]),
    "a tag": (["--tag", "team=search"], [3]),
    "a time ago": (["--since", "1h"], [3, 2, 1, 0]),
    "a date": (["--since", "2999-01-01"], []),
    "a limit": (["--limit", "2"], [3, 2]),
    "several": (["--name", "Program", "--tag", "team=search", "--since", "1w", "--status", "OK"], [3]),
}


@pytest.mark.parametrize(("options", "numbers"), FILTERS.values(), ids=FILTERS)
def test_filters(listed, cli_traces, options, numbers):
    """What is listed can be chosen by status, name, tag and time, and how many there are."""
    assert [each["trace_id"] for each in listed(*options)] == [cli_traces.ids[number] for number in numbers]


WRONG = {
    "an unknown experiment": (["list", "--experiment", "nowhere"], "there is no experiment 'nowhere'"),
    "a time that is none": (["list", "--since", "soon"], "since must be a time ago (15m, 2h, 7d) or a date or time"),
    "a tag without a value": (["list", "--tag", "team"], "--tag must be KEY=VALUE, got 'team'"),
    "a tag that cannot be said": (["list", "--tag", "a`b=c"], "must not have a backtick"),
    "a name with both quotes": (["list", "--name", "'\""], "both kinds of quotes"),
    "an unknown status": (["list", "--status", "fine"], "'fine' is not one of"),
    "an unknown trace": (["show", "tr-none"], "there is no trace 'tr-none'"),
    "a store that is none": (["show", "tr-none", "--tracking-uri", "nowhere://"], "nowhere"),
}


@pytest.mark.parametrize(("arguments", "said"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_found_exits_with_2(run_cli, cli_traces, arguments, said):
    """What is wrong is said on standard error, with status 2 and no output."""
    if "--tracking-uri" not in arguments:
        arguments = [*arguments, "--tracking-uri", cli_traces.uri]
    status, output, errors = run_cli(*arguments)
    assert (status, output) == (2, "")
    assert said in errors


def test_a_time_is_said_by_unit_or_date():
    """Units are seconds to weeks; a date or time is local, or of the zone that it names."""
    assert [since_ms(text, now=1_000_000) for text in ("10s", "1.5m", "1h")] == [999_990_000, 999_910_000, 996_400_000]
    assert since_ms("1970-01-02T00:00:00+00:00") == 86_400_000


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_rows_are_as_wide_as_the_terminal(run_cli, cli_traces, width):
    """From 60 to 200 columns no row is wider than the terminal, and every id is whole."""
    _, output, _ = run_cli("list", "--tracking-uri", cli_traces.uri, "--experiment", cli_traces.experiment, width=width)
    head, *rows = output.splitlines()
    assert max(map(cell_len, [head, *rows])) <= width
    assert [row.split()[0] for row in rows] == list(reversed(cli_traces.ids))
    assert ("cost" in head) == (width >= 120)


def row_of(capsys, monkeypatch, width, **said):
    monkeypatch.setenv("COLUMNS", str(width))
    facts = {"trace_id": "tr-1", "experiment_id": "1", "time_ms": 0, "name": "Program", "status": "IN_PROGRESS"}
    more = {"duration_ms": None, "tokens": 0, "cost_usd": None, "errors": None, "tags": {}}
    Rows().row(Facts(**{**facts, **more, **said}))
    return capsys.readouterr().out.rstrip("\n")


def test_a_name_is_cut_to_its_column(capsys, monkeypatch):
    """Names are counted in cells, and lines, markup and control characters are shown, not obeyed."""
    row = row_of(capsys, monkeypatch, 60, name="日本語の名前がとても長い")
    assert cell_len(row) <= 60
    assert "…" in row
    row = row_of(capsys, monkeypatch, 200, name=HOSTILE + "\n\nmore")
    assert "\\x1b[2J[red]why[/red]\\u202e :smile: <b> more" in row
    assert "\x1b" not in row


def test_an_id_is_never_cut(capsys, monkeypatch):
    """An id that is longer than MLflow's is whole all the same."""
    assert row_of(capsys, monkeypatch, 60, trace_id="trace:/" + "x" * 60).startswith("trace:/" + "x" * 60)


def test_a_pipe_is_wide(monkeypatch):
    """Where neither a terminal nor COLUMNS says how wide it is, 200 cells are, so that little is cut."""
    monkeypatch.delenv("COLUMNS", raising=False)
    assert terminal().width == 200


def test_a_reader_that_has_gone_is_no_error_of_the_store():
    """A broken pipe is left to click, which ends quietly."""

    def act():
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        with_store("list", None, act)


def test_garbage_is_looked_for_less_often():
    """While a command reads a store Python hardly looks for garbage; afterwards it does as before."""
    before, seen = gc.get_threshold(), []
    assert with_store("list", None, lambda: seen.append(gc.get_threshold()) or 0) == 0
    assert (seen[0][0], gc.get_threshold()) == (100 * before[0], before)


def test_a_trace_that_moves_pages_is_found_once(dspy_traces):
    """What is stored while pages are read moves the others: none is yielded twice."""

    def call():
        with dspy.context(callbacks=[MlflowCallback()]):
            Echo()()
        return dspy_traces.all()

    call()
    before = {trace.info.trace_id for trace in call()}
    found = traces(Search(experiments=[dspy_traces.experiment_id]), page=1)
    first = next(found).info.trace_id
    call()
    assert [first, *(trace.info.trace_id for trace in found)] == [first, *(before - {first})]


def test_durations_and_dollars():
    """Durations have the unit that fits; what is not known is empty."""
    assert [duration(ms) for ms in (None, 3, 1234, 90_000)] == ["", "3 ms", "1.2 s", "1.5 min"]
    assert (dollars(None), dollars(0.00012)) == ("", "$0.000120")


def test_a_trace_is_a_tree(run_cli, cli_traces):
    """`show` prints the tree, and of what failed the whole message, which commands nothing."""
    status, output, _ = run_cli("show", cli_traces.ids[2], "--tracking-uri", cli_traces.uri)
    assert status == 0
    assert output.startswith(f"{cli_traces.ids[2]}\nOK  ")
    assert "├─ Recovers.first  CHAIN  " in output
    assert "\n\nRecovers.first failed:\nValueError: \\x1b[2J[red]why[/red]\\u202e :smile: <b>\n" in output
    assert "\x1b" not in output


def test_tags_are_shown(run_cli, cli_traces):
    """A trace's own tags stand below its head."""
    assert "\ntags: team=search\n" in run_cli("show", cli_traces.ids[3], "--tracking-uri", cli_traces.uri)[1]


def test_a_tree_fits_the_terminal(run_cli, cli_traces):
    """In 60 columns no line of the tree is broken."""
    _, output, _ = run_cli("show", cli_traces.ids[2], "--tracking-uri", cli_traces.uri, width=60)
    assert max(map(cell_len, output.splitlines())) <= 60


def test_prompts_are_shown_if_asked_for(run_cli, cli_traces):
    """`--prompts` prints what each LM was asked and answered."""
    _, output, _ = run_cli("show", cli_traces.ids[0], "--tracking-uri", cli_traces.uri, "--prompts")
    assert "\n\n[system]\nYour input fields are:\n" in output
    assert "\\x1b[2J[red]why[/red]\\u202e :smile: <b>" in output
    assert "\n[answer]\n[[ ## reasoning ## ]]\nsome reasoning\n" in output
    assert "\x1b" not in output


def test_a_trace_is_json(run_cli, cli_traces):
    """`--json` has the facts and the spans, each with those below it; prompts if asked for."""
    said = json.loads(run_cli("show", cli_traces.ids[2], "--tracking-uri", cli_traces.uri, "--json", "--prompts")[1])
    (root,) = said["spans"]
    assert (said["trace_id"], root["name"], root["error"]) == (cli_traces.ids[2], "Recovers", None)
    first, second = root["children"]
    assert first["error"].endswith(HOSTILE)
    lm = second["children"][0]["children"][0]["children"][1]
    assert [message["role"] for message in lm["messages"]] == ["system", "user"]
    assert "some answer" in text_of(lm["answers"][0])
    plain = json.loads(run_cli("show", cli_traces.ids[2], "--tracking-uri", cli_traces.uri, "--json")[1])
    assert "messages" not in json.dumps(plain)


class Span:
    def __init__(self, inputs=None, outputs=None):
        self.inputs, self.outputs = inputs, outputs


def test_prompts_of_any_shape():
    """Text models, plain lists of texts, tool calls and spans without inputs have their messages and answers too."""
    assert messages_of(Span({"prompt": "why?"})) == [{"role": "user", "content": "why?"}]
    assert messages_of(Span({"messages": ["why?"]})) == [{"role": "", "content": "why?"}]
    assert messages_of(Span("why?")) == []
    assert answers_of(Span(outputs=["a", {"text": "b"}])) == ["a", "b"]
    assert answers_of(Span(outputs="a")) == ["a"]
    assert answers_of(Span()) == []
    assert text_of({"content": "a", "tool_calls": [1]}) == '{\n  "content": "a",\n  "tool_calls": [\n    1\n  ]\n}'
    assert text_of("a") == "a"


@pytest.mark.parametrize("no_color", [False, True])
def test_colours_are_for_terminals_that_want_them(cli_traces, tmp_path, no_color):
    """On a terminal the status is coloured, but with NO_COLOR; tests elsewhere show that a pipe gets no colours."""
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "MLFLOW_TRACKING_URI": cli_traces.uri}
    environment |= {"NO_COLOR": "1"} if no_color else {}
    mine, theirs = pty.openpty()
    command = [sys.executable, "-m", "dspy_mlflow_callbacks", "list", "--experiment", cli_traces.experiment]
    subprocess.run(command, cwd=tmp_path, env=environment, stdout=theirs, stderr=subprocess.DEVNULL, check=True)
    os.close(theirs)
    output = os.read(mine, 100_000).decode()
    os.close(mine)
    assert bool(re.search(r"\x1b\[31m *ERROR", output)) is not no_color
