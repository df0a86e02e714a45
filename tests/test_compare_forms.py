"""A comparison's forms: Markdown, HTML and the terminal, with whatever traces hold."""

from __future__ import annotations

import io
import json
from html.parser import HTMLParser

import pytest
from compared import Answers, traced
from offline_lm import OfflineLM
from rich.console import Console

from dspy_mlflow_callbacks import compare_traces, compare_versions
from dspy_mlflow_callbacks.compare.document import Table, diff
from dspy_mlflow_callbacks.compare.forms import show

EVIL = "<script>alert(1)</script> | `````` \x1b[2J [red]"


@pytest.fixture
def comparison(dspy_traces):
    (first,) = traced(dspy_traces, Answers("one"), tags={"version": "<b>1"})
    (second,) = traced(dspy_traces, Answers("one"), lm=OfflineLM(answer=EVIL), tags={"version": "2"})
    return compare_traces(first, second)


@pytest.fixture
def versions(dspy_traces, comparison):
    return compare_versions("<b>1", "2", by="tag:version", resamples=0, experiments=[dspy_traces.experiment_id])


class Tags(HTMLParser):
    """The tags and addresses of a page."""

    def __init__(self, page):
        super().__init__()
        self.found, self.addresses = set(), []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.add(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]


@pytest.mark.parametrize("what", ["comparison", "versions"])
def test_html(request, what):
    """The page loads nothing, and what traces hold stays text."""
    page = request.getfixturevalue(what).to_html()
    tags = Tags(page)
    known = {"html", "head", "meta", "title", "style", "body", "h2", "p", "table", "tr", "th", "td", "pre", "span"}
    assert tags.found <= known
    assert tags.addresses == []
    assert "&lt;script&gt;" in page


def test_markdown(comparison, versions):
    """Cells keep their bars and tags to themselves, and a diff's fence is longer than any in it."""
    diff = comparison.to_markdown()
    assert "\n```````diff\n" in diff
    table = versions.to_markdown()
    assert r"\<script>alert(1)\</script> \| \`" in table
    assert table.startswith(r"## \<b>1 → 2")


def test_terminal(comparison, versions):
    """A terminal gets colour, and nothing of a trace that it would obey; elsewhere there is plain text."""
    in_colour, plain = io.StringIO(), io.StringIO()
    for each in (comparison, versions):
        each.show(Console(file=in_colour, force_terminal=True, width=200, color_system="standard"))
        each.show(Console(file=plain, width=200))
    assert "\x1b[32m+" in in_colour.getvalue()
    assert "\x1b[2J" not in in_colour.getvalue()
    assert "\x1b" not in plain.getvalue()
    assert "[red]" in plain.getvalue()


def test_standard_output(comparison, capsys):
    """Without a console it is printed to standard output."""
    comparison.show()
    assert "Answers" in capsys.readouterr().out


def test_json(comparison, versions):
    """What `to_dict` returns is JSON."""
    assert len(json.loads(json.dumps(comparison.to_dict()))["spans"]) == 5
    assert json.loads(json.dumps(versions.to_dict()))["matched"] == 1


def test_messages_that_are_no_texts(dspy_traces):
    """Prompts with images or tool calls are compared as JSON."""
    parts = [{"messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]} for text in ("a", "b")]
    assert [line.strip() for line in diff(*parts) if line[0] in "+-"][2:] == [
        '-    "text": "a",',
        '+    "text": "b",',
    ]


def test_messages_that_an_adapter_returns():
    """Messages that stand alone, as an adapter's `format` returns them, are compared line by line as an LM's are."""
    before, after = ([{"role": "user", "content": f"one\n{text}\n"}] for text in ("two", "three"))
    assert diff(before, after)[-2:] == ("-two", "+three")
    assert diff(before, after) == diff({"messages": before}, {"messages": after})


def test_a_narrow_terminal():
    """In a narrow terminal long cells are folded: nothing of them is cut."""
    console = Console(file=io.StringIO(), width=20)
    show([Table(("name", "value"), (("a_very_long_name", "0.123456789"),))], console)
    assert "…" not in console.file.getvalue()
