"""A report on stored traces, as an HTML page and as numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import attrs
import mlflow

from dspy_mlflow_callbacks.report.compiles import optimizer_runs
from dspy_mlflow_callbacks.report.gathering import WAYS, Gathered
from dspy_mlflow_callbacks.report.page import page
from dspy_mlflow_callbacks.report.plain_spans import PlainSpan, pages, whole_trace
from dspy_mlflow_callbacks.stats import Stats, without_credentials
from dspy_mlflow_callbacks.stored.search import Search, since_ms

_MOST_RUNS = 20


@attrs.frozen(kw_only=True)
class TraceReport:
    """What stored traces say together.

    Attributes:
        about: What was read: `store`, `experiments`, `since`, `made`.
        ui_url: Where MLflow's UI is, for links; None where it is not known.
        stats: What the program counted, by name; None where it is not known.
    """

    about: Mapping[str, str]
    ui_url: str | None
    stats: Mapping[str, Any] | None
    _gathered: Gathered = attrs.field(repr=False, alias="gathered")

    def to_html(self) -> str:
        """Return one page that loads nothing; all that comes from traces is escaped.

        Raises:
            ImportError: without `pip install dspy-mlflow-callbacks[report]`.
        """
        return page(self._gathered, self.about, self.ui_url, self.stats)

    def save(self, path: str | Path) -> None:
        """Write the page to a file.

        Raises:
            ImportError: as `to_html` does.
            OSError: if the file cannot be written.
        """
        Path(path).write_text(self.to_html(), encoding="utf-8")

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers: durations in milliseconds, cost in US dollars."""
        gathered = self._gathered
        sums = {
            "groups": gathered.groups,
            "programs": gathered.names,
            "paths": gathered.places,
            "models": gathered.models,
        }
        return {
            "about": dict(self.about),
            "all": {**gathered.all.to_dict(), "adapter_fallbacks": gathered.fallbacks},
            **{name: {key: each.to_dict() for key, each in those.items()} for name, those in sums.items()},
            "optimizer_runs": [run.to_dict() for run in gathered.runs],
            "stats": self.stats,
        }


def trace_report(
    *,
    experiments: Sequence[str] = (),
    since: str | None = None,
    by: str | None = None,
    limit: int | None = None,
    ui_url: str | None = None,
    stats: Stats | Mapping[str, Any] | None = None,
    progress: Callable[[], object] = lambda: None,
) -> TraceReport:
    """Read stored traces, page by page in bounded memory, and add up what they say.

    Args:
        experiments: Where to look, by name or id; none for all.
        since: How long ago the oldest began (`15m`, `2h`, `7d`), or a date or time; None for all.
        by: What to group them by: `fingerprint`, `tag:KEY`, `model` or `day`; None for nothing.
        limit: The most traces, the newest; None for all.
        ui_url: Where MLflow's UI is, such as `http://127.0.0.1:5000`; None takes the tracking server's.
        stats: `callback.stats()` of the program, for what was sampled out or dropped.
        progress: Called for each trace.

    Raises:
        ValueError: if *by* or *since* is nothing known, or there is no such experiment.

    Example:
        ```python
        trace_report(experiments=["questions"], since="7d", by="model").save("report.html")
        ```
    """
    gathered, uri = Gathered(_checked(by)), mlflow.get_tracking_uri()
    search = Search(experiments=experiments, since_ms=None if since is None else since_ms(since))
    for found in pages(search, limit):
        for info, spans in found:
            gathered.add(info, spans)
            _add_runs(gathered, info, spans)
            progress()
    return TraceReport(
        about={
            "store": without_credentials(uri),
            "experiments": ", ".join(experiments) or "all",
            "since": since or "ever",
            "made": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        },
        ui_url=ui_url or (uri if uri.startswith(("http://", "https://")) else None),
        stats=attrs.asdict(stats) if isinstance(stats, Stats) else stats,
        gathered=gathered,
    )


def _checked(by: str | None) -> str | None:
    is_tag = isinstance(by, str) and by.startswith("tag:") and by != "tag:"
    if by is None or is_tag or by in WAYS:
        return by
    message = f"by must be one of {', '.join(WAYS)}, got {by!r}"
    raise ValueError(message)


def _add_runs(gathered: Gathered, info: Any, spans: list[PlainSpan]) -> None:
    is_compile = any(span.span_type == "WORKFLOW" for span in spans)
    if is_compile and len(gathered.runs) < _MOST_RUNS:
        gathered.runs += optimizer_runs(whole_trace(info, spans))
