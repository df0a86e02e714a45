"""The parts of a report's page; all that comes from traces is escaped here."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote

from dspy_mlflow_callbacks.printable import printable
from dspy_mlflow_callbacks.report.charts import Chart
from dspy_mlflow_callbacks.report.compiles import OptimizerRun
from dspy_mlflow_callbacks.report.gathering import HOUR_MS, Gathered, Listed
from dspy_mlflow_callbacks.report.sums import Sum
from dspy_mlflow_callbacks.report.tables import table

_DAY_HOURS = 24
_MOST_HOURS = 3 * _DAY_HOURS
_MOST_BARS = 90


def text(value: object) -> str:
    """Return any text as HTML that says it and nothing else."""
    return html.escape(printable(str(value)))


def milliseconds(value: float | None) -> str:
    """Return a duration with its unit."""
    if value is None:
        return ""
    return f"{value:,.3g} ms" if value < 1000 else f"{value / 1000:,.3g} s"  # noqa: PLR2004  (milliseconds a second)


def dollars(value: float) -> str:
    """Return US dollars."""
    return f"${value:,.4f}" if value else ""


def tiles(all_: Sum, gathered: Gathered) -> str:
    """Return the numbers that stand first."""
    said = {
        "calls": f"{all_.calls:,}",
        "errors": f"{all_.errors:,} ({_share(all_.errors, all_.calls)})",
        "median": milliseconds(all_.latencies.percentile(0.5)) or "none",
        "p95": milliseconds(all_.latencies.percentile(0.95)) or "none",
        "p99": milliseconds(all_.latencies.percentile(0.99)) or "none",
        "tokens": f"{all_.tokens:,}",
        "cost": dollars(all_.cost) or "none known",
        "cache hits": f"{all_.cache_hits:,}",
        "retries": f"{all_.retries:,}",
        "adapter fallbacks": f"{gathered.fallbacks:,}",
    }
    return "<dl>" + "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in said.items()) + "</dl>"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "0%"


_HEAD = ("calls", "errors", "p50", "p95", "p99", "tokens in", "tokens out", "cost")


def sums_table(title: str, first: str, sums: Mapping[str, Sum], *, with_lm: bool = False) -> str:
    """Return a table of sums, the dearest and then the slowest first."""
    order = sorted(sums.items(), key=lambda each: (-each[1].cost, -each[1].calls, each[0]))
    head = (first, *_HEAD, *(("cache hits", "retries") if with_lm else ()))
    return table(title, head, (_row(name, each, with_lm=with_lm) for name, each in order), is_filtered=True)


def _row(name: str, each: Sum, *, with_lm: bool) -> list[str]:
    percentiles = [milliseconds(each.latencies.percentile(share)) for share in (0.5, 0.95, 0.99)]
    errors = f'<span class="bad">{each.errors:,}</span>' if each.errors else "0"
    cells = [text(name) or "(no name)", f"{each.calls:,}", errors, *percentiles]
    cells += [f"{each.input_tokens:,}", f"{each.output_tokens:,}", dollars(each.cost)]
    return [*cells, *((f"{each.cache_hits:,}", f"{each.retries:,}") if with_lm else ())]


def over_time(hours: Mapping[int, Sum]) -> Iterator[Chart]:
    """Yield charts over time: by hour for three days, by day for three months, else by as many days as fit."""
    if not hours:
        return
    first, last = min(hours), max(hours)
    step = 1 if last - first < _MOST_HOURS else _DAY_HOURS * max(1, -(-(last - first) // _DAY_HOURS // _MOST_BARS))
    begins = range(first - first % step, last + 1, step)
    parts = [[hours[hour] for hour in range(begin, begin + step) if hour in hours] for begin in begins]
    form = "%d %b %H:00" if step == 1 else "%d %b %Y" if len(begins) > 300 else "%d %b"  # noqa: PLR2004
    labels = [datetime.fromtimestamp(begin * HOUR_MS / 1000, timezone.utc).strftime(form) for begin in begins]

    def series(name: str) -> list[float]:
        return [sum(getattr(each, name) for each in part) for part in parts]

    calls, errors = series("calls"), series("errors")
    fine = [call - error for call, error in zip(calls, errors, strict=True)]
    time = "time (UTC)"
    yield Chart(title="Calls", x=time, y="calls", labels=labels, series={"fine": fine, "failed": errors})
    tokens = {"in": series("input_tokens"), "out": series("output_tokens")}
    if any(map(any, tokens.values())):
        yield Chart(title="Tokens", x=time, y="tokens", labels=labels, series=tokens)
    if any(series("cost")):
        yield Chart(title="Cost", x=time, y="US dollars", labels=labels, series={"cost": series("cost")})


def distribution(all_: Sum) -> Iterator[Chart]:
    """Yield the chart of how long calls took."""
    bars = list(all_.latencies.histogram())
    if bars:
        labels = [milliseconds(high) for _, high, _ in bars]
        counts = [float(count) for _, _, count in bars]
        yield Chart(title="Latency", x="at most", y="calls", labels=_unlike(labels), series={"calls": counts})


def _unlike(labels: Sequence[str]) -> list[str]:
    """Return labels that are no two the same, which one axis needs."""
    seen: dict[str, int] = {}
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
    return [label if seen[label] == 1 else f"{label} ({number})" for number, label in enumerate(labels)]


def listed(title: str, found: Iterable[Listed], ui_url: str | None) -> str:
    """Return a table of traces, the heaviest first, with links where MLflow's UI is known."""
    rows = [
        [_link(each, ui_url), text(each.name), _time(each.time_ms), milliseconds(each.milliseconds), dollars(each.cost),
         '<span class="bad">failed</span>' if each.has_failed else "fine"]
        for each in sorted(found, reverse=True)
    ]  # fmt: skip
    return table(
        title, ("trace", "name", "time (UTC)", "took", "cost", "status"), rows, is_filtered=True, style="texts"
    )


def _link(each: Listed, ui_url: str | None) -> str:
    name = f"<code>{text(each.trace_id)}</code>"
    if ui_url is None:
        return name
    place = f"#/experiments/{quote(each.experiment_id)}/traces?selectedEvaluationId={quote(each.trace_id)}"
    return f'<a href="{html.escape(ui_url.rstrip("/"))}/{place}">{name}</a>'


def _time(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


def optimizer(run: OptimizerRun) -> str:
    """Return what an optimizer tried: score and cost by trial."""
    labels = [str(trial.index) for trial in run.trials]
    charts = []
    if any(trial.score is not None for trial in run.trials):
        series = {"score": [trial.score for trial in run.trials]}
        charts.append(Chart(title="Score", x="trial", y="per cent", labels=labels, series=series, is_line=True))
    if any(trial.cost_usd for trial in run.trials):
        costs = {"cost": [trial.cost_usd or 0.0 for trial in run.trials]}
        charts.append(Chart(title="Cost", x="trial", y="US dollars", labels=labels, series=costs))
    best = "" if run.best is None else f" The best is trial {run.best.index} with {run.best.score}."
    said = f"{run.status}, {len(run.trials)} trials, {milliseconds(run.duration_s * 1000)}.{best}"
    drawn = "".join(chart.to_html() for chart in charts)
    head = f"<h3>{text(run.optimizer)} <code>{text(run.trace_id)}</code></h3>"
    return f'{head}<p>{text(said)}</p><div class="charts">{drawn}</div>'


def counters(stats: Mapping[str, Any] | None) -> str:
    """Return what the program has counted: sampling and drops leave no traces that could be read."""
    if stats is None:
        return (
            "<p>What was sampled out or dropped left no trace to count here: the program counts it. Give the report "
            "<code>callback.stats()</code>, or a file of it with <code>--stats</code>.</p>"
        )
    rows = [
        (text(name.replace("_", " ")), text(f"{value:,}" if isinstance(value, int) else value))
        for name, value in stats.items()
    ]
    return table("Counters", ("counter", "value"), rows)
