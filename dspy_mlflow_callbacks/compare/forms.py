"""A comparison's document as Markdown, as HTML and in a terminal."""

from __future__ import annotations

import html
from functools import singledispatch

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from dspy_mlflow_callbacks.compare.document import Diff, Document, Heading, Part, Table
from dspy_mlflow_callbacks.markdown import fenced_diff, markdown_text
from dspy_mlflow_callbacks.printable import printable

_CHANGED = {"-": "red", "+": "green", "@": "cyan"}
_STYLE = """\
body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse}td,th{border:1px solid #8886;padding:.25rem .6rem;text-align:left;vertical-align:top}
pre{background:#8881;padding:.6rem;white-space:pre-wrap;overflow-wrap:anywhere}.red{color:#b3261e}.green{color:#1a7f37}
.cyan{color:#0969da}"""


def to_markdown(document: Document) -> str:
    """Return Markdown (GitHub's flavour); what comes from traces cannot end a cell or a code block, nor make HTML."""
    return "\n\n".join(_markdown(part) for part in document) + "\n"


@singledispatch
def _markdown(part: Part) -> str:
    return markdown_text(part.text)  # type: ignore[union-attr]  # a line


@_markdown.register
def _(part: Heading) -> str:
    return f"## {markdown_text(part.text)}"


@_markdown.register
def _(part: Table) -> str:
    rows = (part.head, ("---",) * len(part.head), *part.rows)
    return "\n".join(f"| {' | '.join(map(markdown_text, row))} |" for row in rows)


@_markdown.register
def _(part: Diff) -> str:
    return fenced_diff(part.lines)


def to_html(document: Document, title: str) -> str:
    """Return a page that needs nothing else; what comes from traces is escaped."""
    body = "\n".join(_html(part) for part in document)
    head = f'<meta charset="utf-8"><title>{_html_text(title)}</title><style>{_STYLE}</style>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def _html_text(text: str) -> str:
    return html.escape(printable(text))


@singledispatch
def _html(part: Part) -> str:
    return f"<p>{_html_text(part.text)}</p>"  # type: ignore[union-attr]  # a line


@_html.register
def _(part: Heading) -> str:
    return f"<h2>{_html_text(part.text)}</h2>"


@_html.register
def _(part: Table) -> str:
    rows = [("th", part.head), *(("td", row) for row in part.rows)]
    lines = ["<tr>" + "".join(f"<{tag}>{_html_text(cell)}</{tag}>" for cell in row) + "</tr>" for tag, row in rows]
    return "\n".join(["<table>", *lines, "</table>"])


@_html.register
def _(part: Diff) -> str:
    lines = [f'<span class="{_CHANGED.get(line[:1], "")}">{_html_text(line)}</span>' for line in part.lines]
    return "<pre>" + "\n".join(lines) + "</pre>"


def show(document: Document, console: Console | None = None) -> None:
    """Print to a terminal; *console* is where, by default standard output, in colour if it is a terminal."""
    console = console or Console()
    for part in document:
        console.print(_rich(part))


@singledispatch
def _rich(part: Part) -> Text | RichTable:
    return Text(printable(part.text))  # type: ignore[union-attr]  # a line


@_rich.register
def _(part: Heading) -> Text:
    return Text(f"\n{printable(part.text)}", style="bold")


@_rich.register
def _(part: Table) -> RichTable:
    table = RichTable()
    for name in part.head:
        table.add_column(name, overflow="fold")  # nothing is cut where the terminal is narrow
    for row in part.rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


@_rich.register
def _(part: Diff) -> Text:
    lines = [Text(printable(line), style=_CHANGED.get(line[:1], "")) for line in part.lines]
    return Text("\n").join(lines)
