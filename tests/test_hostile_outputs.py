"""What traces say reaches terminals, Markdown and HTML as text: nothing of it is obeyed there."""

from __future__ import annotations

import html.parser
import io
import json
import re

import dspy
import pytest
from compared import traced
from hostile import MARKUP, TERMINAL
from programs import Calling
from rich.console import Console

from dspy_mlflow_callbacks import MlflowCallback, TracingConfig, compare_traces, compare_versions, diagnose, replay
from dspy_mlflow_callbacks.cli import main
from dspy_mlflow_callbacks.printable import printable

HOSTILE = TERMINAL + MARKUP + "\n# heading\n| cell |\n"
TAGS = {"html", "head", "meta", "title", "style", "body", "h2", "p", "table", "tr", "th", "td", "pre", "span"}


class Tags(html.parser.HTMLParser):
    """Gathers the tags of a page, and their attributes."""

    def __init__(self):
        super().__init__()
        self.names, self.attributes = set(), set()

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.attributes.update(name for name, _ in attrs)


class Saying(dspy.Module):
    """Says something, in a part of its own that has a hostile name."""

    def __init__(self, text):
        super().__init__()
        self.text = text
        self.part = Calling(dspy.Tool(lambda: text, name="tool" + HOSTILE))

    def forward(self, question):
        return {"answer": self.text + str(self.part()), HOSTILE: question}


@pytest.fixture
def ids(dspy_traces):
    """Return the ids of two traces that differ in what is hostile."""
    said = [traced(dspy_traces, Saying(HOSTILE + text), tags={"version": text})[0] for text in ("1", "2")]
    return [trace.info.trace_id for trace in said]


@pytest.fixture
def reports(dspy_traces, ids):
    """Return everything that can be reported, each as a function of a form."""
    options = {"by": "tag:version", "experiments": [dspy_traces.experiment_id], "resamples": 0}
    with dspy.context(callbacks=[MlflowCallback(config=TracingConfig(user=HOSTILE[:200], tags={"t": HOSTILE}))]):
        return [compare_traces(*ids), compare_versions("1", "2", **options), diagnose()]


def unprintable(text):
    return sorted({each for each in text if not each.isprintable() and each != "\n"})


def test_terminals(reports):
    """A terminal gets printable characters alone, in colour too but for the report's own colours; markup is text."""
    for report in reports:
        plain, coloured = io.StringIO(), io.StringIO()
        report.show(Console(file=plain, width=200))
        report.show(Console(file=coloured, width=200, force_terminal=True, color_system="truecolor"))
        assert unprintable(plain.getvalue()) == []
        assert unprintable(re.sub(r"\x1b\[[0-9;]*m", "", coloured.getvalue())) == []
        assert "[red]x[/red]" in plain.getvalue()


def test_markdown(reports):
    """Markdown has no tag, no link and no heading of theirs, and every row has the cells of its head."""
    for report in reports:
        text = report.to_markdown()
        assert unprintable(text) == []
        prose = re.sub(r"^(`{3,})diff\n.*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
        assert re.findall(r"(?<!\\)<\w+", prose) == []
        assert re.findall(r"(?<!\\)\[[^]]*(?<!\\)\]\(", prose) == []
        assert "\n# heading" not in prose
        for table in re.findall(r"(?:^\|.*\n)+", prose, flags=re.MULTILINE):
            cells = [len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()]
            assert set(cells) == {cells[0]}


def test_html(reports):
    """A page has the tags of its form alone, without attributes but its own, and no script."""
    for report in reports[:2]:
        page = report.to_html()
        tags = Tags()
        tags.feed(page)
        assert tags.names <= TAGS
        assert tags.attributes <= {"charset", "lang", "class"}
        assert unprintable(page) == []


@pytest.mark.parametrize("arguments", [[], ["--format=markdown"], ["--format=html"], ["--format=json"]])
def test_the_command_compare(ids, capsys, arguments):
    """The command prints printable characters alone, and JSON holds what was said."""
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["compare", *ids, *arguments])
    printed = capsys.readouterr().out
    assert unprintable(printed) == []
    if "json" in str(arguments):
        json.loads(printed)


def test_replays(ids):
    """A replay's report shows a hostile error, diff and names as text, in one line where it has one."""

    class Failing(Saying):
        def forward(self, question):
            self.part()
            raise ValueError(HOSTILE)

    done = replay(ids[0], Failing(HOSTILE), mode="lenient")
    text = done.to_markdown()
    prose = re.sub(r"^(`{3,})diff\n.*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert unprintable(text) == []
    assert re.findall(r"(?<!\\)<\w+", prose) == []
    assert "\n# heading" not in prose


def test_what_is_printable_stays():
    """Texts of people stay as they are; a tab is four spaces, all else that cannot be seen is spelt out."""
    assert printable("Größe: 5 → 7\n日本 🙂") == "Größe: 5 → 7\n日本 🙂"
    assert printable("a\tb\x1b\u202e\ud800") == r"a    b\x1b\u202e\ud800"
