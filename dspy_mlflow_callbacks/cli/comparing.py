"""`dspy-mlflow compare A B` compares two traces, or two versions of a program."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dspy_mlflow_callbacks.cli.printing import complain, say

if TYPE_CHECKING:
    from dspy_mlflow_callbacks.compare import TraceComparison, VersionComparison

_FAILED, _COULD_NOT = 1, 2
_FORMATS = ("terminal", "markdown", "html", "json")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of `dspy-mlflow`."""
    compare = commands.add_parser(
        "compare",
        help="compare two traces, or two versions of a program",
        description="Compare two traces, or with --by two versions of a program by their traces. Exits with 0; with 1 "
        "if a check failed; with 2 if it could not compare, and standard error says why.",
        allow_abbrev=False,
    )
    compare.set_defaults(does=_compare)
    compare.add_argument("baseline", help="a trace id; with --by what selects the traces")
    compare.add_argument("candidate", help="likewise")
    compare.add_argument("--by", help="fingerprint, tag:KEY, experiment, run, model or evaluation")
    compare.add_argument("--experiment", action="append", help="where to look (name or id), once or more; default: all")
    compare.add_argument("--tracking-uri", help="the store; default: as MLflow finds it")
    compare.add_argument("--resamples", type=int, help="for confidence intervals; 0 for none (no SciPy needed)")
    compare.add_argument("--seed", type=int, default=0, help="of the resampling (default: 0)")
    compare.add_argument("--format", choices=_FORMATS, default="terminal", help="default: terminal")
    compare.add_argument("--output", type=Path, metavar="FILE", help="write to a file; default: standard output")
    _add_checks(compare)


def _add_checks(compare: argparse.ArgumentParser) -> None:
    checks = compare.add_argument_group("checks", "Without any of these nothing is checked.")
    for name, what in (("cost", "the sum of costs"), ("latency", "the median latency")):
        checks.add_argument(
            f"--max-{name}-increase", type=float, metavar="SHARE", help=f"how much {what} may rise: 0.1 is 10%%"
        )
    checks.add_argument(
        "--min-score", action="append", metavar="[NAME=]NUMBER", help="what a mean score must at least be"
    )
    checks.add_argument(
        "--allow-structure-change",
        action=argparse.BooleanOptionalAction,
        help="whether spans may be added, removed or moved (with another check the default is that they may not)",
    )


def _compare(said: argparse.Namespace) -> int:
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


def _comparison(said: argparse.Namespace) -> TraceComparison | VersionComparison:
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
        experiments=said.experiment,
        seed=said.seed,
        progress=sys.stderr.isatty(),
        **resamples,
    )


def _write(comparison: TraceComparison | VersionComparison, said: argparse.Namespace) -> None:
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


def _check(comparison: TraceComparison | VersionComparison, said: argparse.Namespace) -> None:
    limits = (said.max_cost_increase, said.max_latency_increase, said.min_score, said.allow_structure_change)
    if all(limit is None for limit in limits):
        return
    comparison.check(
        max_cost_increase=said.max_cost_increase,
        max_latency_increase=said.max_latency_increase,
        min_score=_min_score(said.min_score),
        allow_structure_change=bool(said.allow_structure_change),
    )


def _min_score(texts: list[str] | None) -> float | dict[str, float] | None:
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
