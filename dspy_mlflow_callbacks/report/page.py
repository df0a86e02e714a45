"""The page of a report: one file that loads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dspy_mlflow_callbacks.report import parts
from dspy_mlflow_callbacks.report.flames import flame
from dspy_mlflow_callbacks.report.gathering import Gathered

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"

_FILTERS = """\
<div class="filters"><label>Filter rows: <input type="search" id="search"></label>
<label><input type="checkbox" id="failed"> only with errors</label><span id="shown" role="status"></span></div>"""

_FLAMES = """\
<fieldset class="filters"><legend>Width is</legend>
<label><input type="radio" name="flame" value="milliseconds" checked> time</label>
<label><input type="radio" name="flame" value="cost"> cost</label></fieldset>
<p id="said" role="status">Choose a box to read it.</p>"""


def page(gathered: Gathered, about: Mapping[str, str], ui_url: str | None, stats: Mapping[str, Any] | None) -> str:
    """Return the page.

    Args:
        gathered: What it says.
        about: What was read: where, which, when.
        ui_url: Where MLflow's UI is; None where it is not known.
        stats: What the program counted; None where it is not known.
    """
    said = "".join(f"<p>{parts.text(name)}: {parts.text(value)}</p>" for name, value in about.items())
    titled = _sections(gathered, ui_url, stats).items()
    sections = "".join(f"<section><h2>{title}</h2>{content}</section>" for title, content in titled if content)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Report of DSPy programs</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<style>{_file('page.css')}</style></head>"
        f"<body><header><h1>Report of DSPy programs</h1>{said}</header>"
        f"<main>{parts.tiles(gathered.all, gathered)}{_charts(gathered)}{_FILTERS}{sections}</main>"
        f"<script>{_file('page.js')}</script></body></html>\n"
    )


def _file(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _charts(gathered: Gathered) -> str:
    charts = [*parts.over_time(gathered.hours), *parts.distribution(gathered.all)]
    return f'<div class="charts">{"".join(chart.to_html() for chart in charts)}</div>'


def _sections(gathered: Gathered, ui_url: str | None, stats: Mapping[str, Any] | None) -> dict[str, str]:
    group = f"By {parts.text(gathered.by)}"
    return {
        group: parts.sums_table(group, parts.text(gathered.by), gathered.groups) if gathered.groups else "",
        "By program": parts.sums_table("By program", "program", gathered.names),
        "By path": parts.sums_table("By path", "path", gathered.places),
        "By model": parts.sums_table("By model", "model", gathered.models, with_lm=True) if gathered.models else "",
        "Where time and money go": _flames(gathered),
        "Slowest traces": parts.listed("Slowest traces", gathered.slowest, ui_url),
        "Dearest traces": parts.listed("Dearest traces", gathered.dearest, ui_url) if gathered.dearest else "",
        "Failed traces, the newest first": parts.listed("Failed", gathered.failed, ui_url) if gathered.failed else "",
        "Optimizer runs": "".join(map(parts.optimizer, gathered.runs)),
        "Sampling and drops": parts.counters(stats),
    }


def _flames(gathered: Gathered) -> str:
    graphs = "".join(
        f'<div data-flame="{of}" class="wide" tabindex="0" role="region" aria-label="Flame graph of {name}"{hidden}>'
        f"{flame(gathered.frames, of)}</div>"
        for of, name, hidden in (("milliseconds", "time", ""), ("cost", "cost", " hidden"))
    )
    return _FLAMES + graphs
