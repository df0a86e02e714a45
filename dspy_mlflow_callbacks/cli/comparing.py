"""`dspy-mlflow compare A B` compares two traces, or two versions of a program."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click

from dspy_mlflow_callbacks.cli.printing import complain, say

if TYPE_CHECKING:
    from dspy_mlflow_callbacks.compare import TraceComparison, VersionComparison

_FAILED, _COULD_NOT = 1, 2
_FORMATS = ("terminal", "markdown", "html", "json")
_BY = "fingerprint, tag:KEY, experiment, run, model or evaluation"


@click.command("compare")
@click.argument("baseline")
@click.argument("candidate")
@click.option("--by", help=_BY)
@click.option("--experiment", multiple=True, help="where to look (name or id), once or more; default: all")
@click.option("--tracking-uri", help="the store; default: as MLflow finds it")
@click.option("--resamples", type=int, help="for confidence intervals; 0 for none (no SciPy needed)")
@click.option("--seed", type=int, default=0, help="of the resampling (default: 0)")
@click.option("--format", type=click.Choice(_FORMATS), help="default: terminal")
@click.option("--json", is_flag=True, help="the same as --format json")
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="default: standard output")
@click.option("--max-cost-increase", type=float, metavar="SHARE", help="how much the sum of costs may rise: 0.1 is 10%")
@click.option("--max-latency-increase", type=float, metavar="SHARE", help="how much the median latency may rise")
@click.option("--min-score", multiple=True, metavar="[NAME=]NUMBER", help="what a mean score must at least be")
@click.option(
    "--allow-structure-change/--no-allow-structure-change",
    default=None,
    help="whether spans may be added, removed or moved (with another check the default is that they may not)",
)
def command(**options: Any) -> int:
    """Compare two traces, or with --by two versions of a program by their traces.

    BASELINE and CANDIDATE are trace ids; with --by what selects the traces. Without --max-cost-increase,
    --max-latency-increase, --min-score or --allow-structure-change nothing is checked. Exits with 0; with 1 if a check
    failed; with 2 if it could not compare, and standard error says why.
    """
    return _compare(SimpleNamespace(**{**options, "format": _format(**options)}))


def _format(*, format: str | None, json: bool, **_: Any) -> str:  # noqa: A002  (the options' names)
    if json and format not in (None, "json"):
        message = f"--json and --format {format} are two forms; give one"
        raise click.UsageError(message)
    return "json" if json else format or "terminal"


def _compare(said: SimpleNamespace) -> int:
    from mlflow.exceptions import MlflowException  # noqa: PLC0415  (takes seconds, and only this command needs it)
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    from dspy_mlflow_callbacks.compare import CheckFailedError  # noqa: PLC0415

    try:
        comparison = _comparison(said)
        _write(comparison, said)
        _check(comparison, said)
    except CheckFailedError as error:
        for each in error.checks.failed:
            complain(f"{each.check}: {each.reason}")
        return _FAILED
    except (ImportError, OSError, TypeError, ValueError, MlflowException, SQLAlchemyError) as error:
        complain(f"dspy-mlflow compare: {error}")
        return _COULD_NOT
    return 0


def _comparison(said: SimpleNamespace) -> TraceComparison | VersionComparison:
    import mlflow  # noqa: PLC0415

    from dspy_mlflow_callbacks.compare import compare_traces, compare_versions  # noqa: PLC0415

    if said.tracking_uri is not None:
        mlflow.set_tracking_uri(said.tracking_uri)
    if said.by is None:
        return compare_traces(said.baseline, said.candidate)
    resamples = {} if said.resamples is None else {"resamples": said.resamples}
    return compare_versions(
        said.baseline,
        said.candidate,
        by=said.by,
        experiments=said.experiment or None,
        seed=said.seed,
        progress=sys.stderr.isatty(),
        **resamples,
    )


def _write(comparison: TraceComparison | VersionComparison, said: SimpleNamespace) -> None:
    from rich.console import Console  # noqa: PLC0415

    if said.format == "terminal" and said.output is None:
        comparison.show()
        return
    if said.format == "terminal":
        with said.output.open("w", encoding="utf-8") as file:
            comparison.show(Console(file=file, width=160))
        return
    forms: dict[str, Callable[[], str]] = {"markdown": comparison.to_markdown, "html": comparison.to_html}
    text = forms.get(said.format, lambda: _json(comparison))()
    if said.output is None:
        say(text.rstrip("\n"))
    else:
        said.output.write_text(text, encoding="utf-8")


def _json(comparison: TraceComparison | VersionComparison) -> str:
    return json.dumps(comparison.to_dict(), indent=2) + "\n"


def _check(comparison: TraceComparison | VersionComparison, said: SimpleNamespace) -> None:
    limits = (said.max_cost_increase, said.max_latency_increase, said.min_score, said.allow_structure_change)
    if all(limit is None or limit == () for limit in limits):
        return
    comparison.check(
        max_cost_increase=said.max_cost_increase,
        max_latency_increase=said.max_latency_increase,
        min_score=_min_score(said.min_score),
        allow_structure_change=bool(said.allow_structure_change),
    )


def _min_score(texts: Sequence[str]) -> float | dict[str, float] | None:
    """Return one number for all scores, or a number for each name.

    Raises:
        ValueError: if a text is no number, or one without a name is not the only one.
    """
    if not texts:
        return None
    named = {name: float(number) for name, equals, number in (text.rpartition("=") for text in texts) if equals}
    if not named and len(texts) == 1:
        return float(texts[0])
    if len(named) != len(texts):
        message = f"--min-score is one NUMBER, or NAME=NUMBER once for each name, got {', '.join(texts)}"
        raise ValueError(message)
    return named
