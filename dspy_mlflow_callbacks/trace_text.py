"""A trace as text: its tree with times, tokens, cost and errors, for a terminal or a test's report."""

from __future__ import annotations

from collections.abc import Iterator

from mlflow.entities import Span, Trace

from dspy_mlflow_callbacks.printable import printable

_DOLLAR_DIGITS = 6
_MAX_ERROR_CHARACTERS = 200


def trace_text(trace: Trace) -> str:
    """Return *trace* as a tree of lines: name, type and milliseconds of each span, with tokens, dollars and error.

    Control characters of names and messages are shown as escapes, so that nothing in a trace moves a cursor.
    """
    return "\n".join([f"{trace.info.trace_id} {trace.info.state.value}", *tree_lines(trace)])


def tree_lines(trace: Trace) -> Iterator[str]:
    """Yield the lines of `trace_text` that stand for spans."""
    below = spans_below(trace)
    for root in below.get(None, ()):
        yield _line(root)
        yield from _lines_below(root, below, "")


def spans_below(trace: Trace) -> dict[str | None, list[Span]]:
    """Return the spans by the id of the one above them, as they began; under None those that have none in the trace."""
    spans = sorted(trace.data.spans, key=lambda span: span.start_time_ns)
    known = {span.span_id for span in spans}
    below: dict[str | None, list[Span]] = {}
    for span in spans:
        # What is above a remote part of a trace is not here.
        below.setdefault(span.parent_id if span.parent_id in known else None, []).append(span)
    return below


def _lines_below(span: Span, below: dict[str | None, list[Span]], indent: str) -> Iterator[str]:
    children = below.get(span.span_id, [])
    for child in children:
        is_last = child is children[-1]
        yield f"{indent}{'└─' if is_last else '├─'} {_line(child)}"
        yield from _lines_below(child, below, indent + ("   " if is_last else "│  "))


def _line(span: Span) -> str:
    parts = [printable(span.name), str(span.span_type), _duration(span), *_usage(span)]
    if span.status.status_code.value == "ERROR":
        parts.append(f"ERROR {_first_line(span.status.description)}")
    return "  ".join(parts)


def _duration(span: Span) -> str:
    return "not ended" if span.end_time_ns is None else f"{(span.end_time_ns - span.start_time_ns) / 1e6:.1f} ms"


def _usage(span: Span) -> Iterator[str]:
    tokens, cost = span.get_attribute("mlflow.chat.tokenUsage"), span.get_attribute("mlflow.llm.cost")
    if tokens and tokens.get("total_tokens"):
        yield f"{tokens['total_tokens']} tokens"
    if cost:
        yield f"${cost['total_cost']:.{_DOLLAR_DIGITS}f}"
    if span.get_attribute("dspy.lm.cache_hit"):
        yield "from the cache"


def _first_line(text: str) -> str:
    line = printable(text.strip().partition("\n")[0])
    return line if len(line) <= _MAX_ERROR_CHARACTERS else f"{line[:_MAX_ERROR_CHARACTERS]}…"
