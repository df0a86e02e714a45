"""Charts as SVG inside the page: no script draws them, and nothing is loaded.

Altair describes them and vl-convert, which has Vega inside, draws them here. Colours of texts and lines are the page's
(its style sheet goes before the drawing's attributes), so that they are right in light and dark.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from dspy_mlflow_callbacks.report.tables import table

_WIDTH, _HEIGHT = 330, 170
_COLOURS = ("#3b82f6", "#0d9488")
_FAILED = "failed", "#e5484d"
_THOUSAND = 1000


@attrs.frozen(kw_only=True)
class Chart:
    """A chart: bars, or a line where *is_line*, and the same as a table for who cannot see it.

    Attributes:
        title: What it shows.
        x: What is along the axis.
        y: What is counted.
        labels: Along the axis, in order.
        series: Values by name, one for each label; bars are stacked.
        is_line: Whether points are joined.
    """

    title: str
    x: str
    y: str
    labels: Sequence[str]
    series: Mapping[str, Sequence[float | None]]
    is_line: bool = False

    def to_html(self) -> str:
        """Return a figure: its title, the drawing and the numbers."""
        label = html.escape(f"Chart: {self.title}. The numbers follow as a table.")
        return (
            f'<figure class="chart"><figcaption>{html.escape(self.title)}</figcaption>'
            f'<div role="img" aria-label="{label}">{_svg(self)}</div>'
            f"<details><summary>Numbers</summary>{_table(self)}</details></figure>"
        )


def _svg(chart: Chart) -> str:
    try:
        import altair as alt  # noqa: PLC0415  (only who draws needs them)
        import vl_convert  # noqa: PLC0415
    except ImportError as error:
        message = f"a report needs altair and vl-convert-python: pip install 'dspy-mlflow-callbacks[report]' ({error})"
        raise ImportError(message) from error
    names = list(chart.series)
    rows = [
        {"x": label, "n": number, "series": name, "value": values[number]}
        for name, values in chart.series.items()
        for number, label in enumerate(chart.labels)
    ]
    drawn = alt.Chart(alt.InlineData(values=rows), width=_WIDTH, height=_HEIGHT)
    marked = drawn.mark_line(point=True) if chart.is_line else drawn.mark_bar()
    colours = [_FAILED[1] if name == _FAILED[0] else _COLOURS[number] for number, name in enumerate(names)]
    colour = alt.Color(
        "series:N",
        sort=names,
        scale=alt.Scale(domain=names, range=colours),
        legend=alt.Legend(orient="top", title=None) if len(names) > 1 else None,
    )
    axis = alt.Axis(labelAngle=0, labelOverlap=True, title=chart.x, ticks=False)
    encoded = marked.encode(
        x=alt.X("x:O", sort=list(chart.labels), axis=axis),
        y=alt.Y(
            "value:Q", title=chart.y, axis=alt.Axis(tickCount=5, format="~s" if _most(chart) >= _THOUSAND else "~r")
        ),
        color=colour,
        description=alt.Text("value:Q"),
    )
    specification: dict[str, Any] = encoded.configure(background="transparent", font="system-ui, sans-serif").to_dict()
    return str(vl_convert.vegalite_to_svg(specification))


def _most(chart: Chart) -> float:
    return max((value for values in chart.series.values() for value in values if value is not None), default=0.0)


def _table(chart: Chart) -> str:
    rows = [
        (html.escape(label), *(_number(values[number]) for values in chart.series.values()))
        for number, label in enumerate(chart.labels)
    ]
    return table(f"{html.escape(chart.title)}: numbers", map(html.escape, (chart.x, *chart.series)), rows, style="")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.6g}"
