"""What the examples share: a local store for traces, and a trace printed as a tree."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import mlflow
from mlflow.entities import Span, SpanStatusCode, Trace

WIDTH = 100
_NAME_WIDTH = 61
_COLUMNS = "{:<61}  {:<10}  {:>8}  {:>15}"


def open_store(folder: Path) -> str:
    """Send traces to an SQLite store in *folder*, made where it is missing; return its experiment's id."""
    # MLflow tells at INFO how it sets up the database.
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    if mlflow.get_experiment_by_name("examples") is None:
        mlflow.create_experiment("examples", artifact_location=(folder / "artifacts").as_uri())
    return str(mlflow.set_experiment("examples").experiment_id)


def stored_traces(experiment_id: str, filter_string: str | None = None) -> list[Trace]:
    """Read the traces of an experiment back from the store, oldest first."""
    mlflow.flush_trace_async_logging()
    traces = mlflow.search_traces(locations=[experiment_id], filter_string=filter_string, return_type="list")
    return sorted(traces, key=lambda trace: min(span.start_time_ns for span in trace.data.spans))


def print_tree(trace: Trace) -> None:
    """Print *trace*: a line for each span with its type, milliseconds and tokens, then the totals."""
    spans = sorted(trace.data.spans, key=lambda span: span.start_time_ns)
    print(_COLUMNS.format("span", "type", "ms", "tokens in + out"))
    print("─" * WIDTH)
    for line in _lines(spans, parent_id=None, indent=""):
        print(line)
    print("─" * WIDTH)
    total = f"{len(spans)} {'span' if len(spans) == 1 else 'spans'}, {trace.info.state.value}"
    started, ended = spans[0].start_time_ns, max(span.end_time_ns for span in spans)
    print(_COLUMNS.format(total, "", _milliseconds(started, ended), _tokens(trace.info.token_usage)).rstrip())


def _lines(spans: list[Span], parent_id: str | None, indent: str) -> Iterator[str]:
    children = [span for span in spans if span.parent_id == parent_id]
    for span in children:
        is_last = span is children[-1]
        branch, below = ("", "") if parent_id is None else ("└─ ", "   ") if is_last else ("├─ ", "│  ")
        milliseconds = _milliseconds(span.start_time_ns, span.end_time_ns)
        tokens = _tokens(span.get_attribute("mlflow.chat.tokenUsage"))
        name = _cut(indent + branch + span.name, _NAME_WIDTH)
        yield _COLUMNS.format(name, span.span_type, milliseconds, tokens).rstrip()
        if span.status.status_code is SpanStatusCode.ERROR:
            yield _cut(f"{indent}{below}   ! {' '.join(span.status.description.split())}", WIDTH)
        yield from _lines(spans, span.span_id, indent + below)


def _milliseconds(started: int, ended: int) -> str:
    return f"{(ended - started) / 1e6:,.1f}"


def _tokens(usage: dict[str, int] | None) -> str:
    return f"{usage.get('input_tokens', 0):,} + {usage.get('output_tokens', 0):,}" if usage else ""


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
