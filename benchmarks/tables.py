"""From measured figures to Markdown."""

from __future__ import annotations

import statistics

from contestants import AUTOLOG, CONTESTANTS, NO_OP

SPANS = 5  # what DSPy emits events for in one measured call

CONTESTANT_HEAD = (
    "",
    "µs a call",
    "lowest to highest round",
    "µs a span over no-op",
    "the same in CPU of the caller",
    "times no-op",
    "times autolog",
    "all CPU until flushed, ms a call",
    "spans a trace",
    "traces stored",
)


def contestant_rows(rounds, storing):
    """Return a row for each contestant, given its figures in each round and those of the run that stores."""
    calls = {name: _median(figures, "call_us") for name, figures in rounds.items()}
    cpu = {name: _median(figures, "caller_cpu_us") for name, figures in rounds.items()}
    return [_row(name, figures, storing[name], calls, cpu) for name, figures in rounds.items()]


def _row(name, figures, storing, calls, cpu):
    call, no_op, autolog = calls[name], calls.get(NO_OP), calls.get(AUTOLOG)
    return {
        "contestant": CONTESTANTS[name].title,
        "call_us": call,
        "call_us_by_round": [each["call_us"] for each in figures],
        "added_us_per_span": (call - no_op) / SPANS if no_op else None,
        "caller_cpu_us": cpu[name],
        "added_caller_cpu_us_per_span": (cpu[name] - cpu[NO_OP]) / SPANS if no_op else None,
        "to_no_op": call / no_op if no_op else None,
        "to_autolog": call / autolog if autolog else None,
        "cpu_ms": storing["cpu_ms"],
        "spans": storing["spans"],
        "executed": storing["executed"],
        "stored": storing["stored"] if CONTESTANTS[name].keeps else None,
    }


def _median(figures, key):
    return statistics.median(each[key] for each in figures)


def markdown(results):
    return "\n".join(
        [
            _circumstances(results),
            "",
            *_table(CONTESTANT_HEAD, [_contestant_cells(row) for row in results["contestants"]]),
            "",
            *_table(
                ("payload", "`to_json`, µs", "`Redactor()`, µs", "both, µs", "MB/s"),
                [
                    (
                        row["payload"],
                        *(_number(row[column], 1) for column in ("json_us", "redact_us", "us")),
                        _number(row["mb_per_s"], 0),
                    )
                    for row in results["serialisation"]
                ],
            ),
            "",
            *_table(("`PayloadLimit`", "µs"), [(row["step"], _number(row["us"], 1)) for row in results["limits"]]),
            "",
            *_table(
                ("middleware", "µs a root call", "µs a call below"),
                [
                    (row["step"], _number(row["root_us"], 2), _number(row["child_us"], 2))
                    for row in results["middleware"]
                ],
            ),
            "",
        ]
    )


def _circumstances(results):
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return (
        f"{versions}; {results['cores']} cores. Medians of {results['rounds']} rounds, each contestant in a process of "
        f"its own: {results['warm_up']} calls to warm up, {results['calls']} measured. The last three columns are of "
        "one more run."
    )


def _contestant_cells(row):
    stored = "" if row["stored"] is None else f"{row['stored']:,} of {row['executed']:,}"
    return (
        row["contestant"],
        _number(row["call_us"], 0),
        " to ".join(_number(bound(row["call_us_by_round"]), 0) for bound in (min, max)),
        _number(row["added_us_per_span"], 1),
        _number(row["added_caller_cpu_us_per_span"], 1),
        _number(row["to_no_op"], 2),
        _number(row["to_autolog"], 2),
        _number(row["cpu_ms"], 2),
        ", ".join(map(str, row["spans"])),
        stored,
    )


def _number(value, digits):
    return "" if value is None else f"{value:,.{digits}f}"


def _table(head, rows):
    """Return the lines of a table: the first column is text, the others are set right."""
    rule = ("---", *("---:" for _ in head[1:]))
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]
