"""`dspy-mlflow show ID` prints a trace: its tree with times, tokens, cost and errors, and its prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from dspy_mlflow_callbacks.cli.printing import say
from dspy_mlflow_callbacks.cli.searching import DONE, JSON, STORE, with_store

if TYPE_CHECKING:
    from mlflow.entities import Span, Trace
    from rich.console import Console


@click.command("show")
@click.argument("trace", metavar="ID")
@click.option("--prompts", is_flag=True, help="what each LM was asked and answered, too")
@STORE
@JSON
def command(trace: str, tracking_uri: str | None, as_json: bool, prompts: bool) -> int:  # noqa: FBT001  (click's names)
    """Print a trace as a tree, with times, tokens, cost and errors.

    Exit status: 0, also where the trace failed; 2 if there is no such trace.
    """
    return with_store("show", tracking_uri, lambda: _show(trace, as_json=as_json, with_prompts=prompts))


def _show(trace_id: str, *, as_json: bool, with_prompts: bool) -> int:
    from dspy_mlflow_callbacks.cli.rows import terminal  # noqa: PLC0415
    from dspy_mlflow_callbacks.compare.pages import stored_trace  # noqa: PLC0415  (imports MLflow)
    from dspy_mlflow_callbacks.stored.facts import facts_of, tree_of  # noqa: PLC0415

    trace = stored_trace(trace_id)
    if as_json:
        spans = tree_of(trace, with_prompts=with_prompts)
        say(json.dumps({**facts_of(trace).to_dict(), "spans": spans}, indent=2, default=str))
        return DONE
    console = terminal()
    _print_head(trace, console)
    _print_tree(trace, console)
    _print_errors(trace, console)
    if with_prompts:
        _print_prompts(trace, console)
    return DONE


def _print_head(trace: Trace, console: Console) -> None:
    from rich.text import Text  # noqa: PLC0415

    from dspy_mlflow_callbacks.cli.rows import dollars, duration, local_time  # noqa: PLC0415
    from dspy_mlflow_callbacks.printable import printable  # noqa: PLC0415
    from dspy_mlflow_callbacks.stored.facts import facts_of  # noqa: PLC0415

    facts = facts_of(trace)
    tokens = f"{facts.tokens:,} tokens" if facts.tokens else ""
    said = [facts.status, local_time(facts.time_ms), duration(facts.duration_ms), tokens, dollars(facts.cost_usd)]
    console.print(Text(facts.trace_id, style="bold"), soft_wrap=True)
    console.print(Text("  ".join(filter(None, said)), style="red" if facts.status == "ERROR" else ""))
    tags = "  ".join(f"{key}={value}" for key, value in sorted(facts.tags.items()))
    if tags:
        console.print(Text(f"tags: {printable(tags)}"))
    console.print()


def _print_tree(trace: Trace, console: Console) -> None:
    from rich.text import Text  # noqa: PLC0415

    from dspy_mlflow_callbacks.trace_text import tree_lines  # noqa: PLC0415

    for line in tree_lines(trace):
        # A line that is too long is cut, so that the tree stays one; its error is said in full below.
        text = Text(line, style="red" if "  ERROR " in line else "")
        console.print(text, no_wrap=True, overflow="ellipsis")


def _print_errors(trace: Trace, console: Console) -> None:
    from rich.text import Text  # noqa: PLC0415

    from dspy_mlflow_callbacks.printable import printable  # noqa: PLC0415
    from dspy_mlflow_callbacks.stored.facts import has_failed  # noqa: PLC0415

    for span in filter(has_failed, trace.data.spans):
        console.print(Text(f"\n{printable(span.name)} failed:", style="bold red"))
        console.print(Text(printable(span.status.description.rstrip())))


def _print_prompts(trace: Trace, console: Console) -> None:
    from rich.text import Text  # noqa: PLC0415

    from dspy_mlflow_callbacks.printable import printable  # noqa: PLC0415
    from dspy_mlflow_callbacks.stored.facts import is_lm  # noqa: PLC0415

    asked = sorted(filter(is_lm, trace.data.spans), key=lambda span: span.start_time_ns)
    for number, span in enumerate(asked, 1):
        console.print(Text(f"\n{number}. {printable(span.name)} (span {span.span_id})", style="bold"))
        for role, text in _said_to_and_by(span):
            console.print(Text(f"\n[{printable(role)}]", style="cyan"))
            console.print(Text(printable(text)))


def _said_to_and_by(span: Span) -> Iterator[tuple[str, str]]:
    from dspy_mlflow_callbacks.stored.facts import answers_of, messages_of, text_of  # noqa: PLC0415

    for message in messages_of(span):
        role: Any = message.get("role") or "message"
        has_more = isinstance(message.get("content"), str) and bool(message.get("tool_calls"))
        yield str(role), text_of(message if has_more else message.get("content"))
    for answer in answers_of(span):
        yield "answer", text_of(answer)
