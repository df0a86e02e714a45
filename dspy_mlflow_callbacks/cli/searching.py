"""What commands that read a store have in common: their options, and how they fail."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from dspy_mlflow_callbacks.cli.printing import complain

if TYPE_CHECKING:
    from dspy_mlflow_callbacks.stored.search import Search

DONE, COULD_NOT = 0, 2

STORE = click.option("--tracking-uri", help="the store; default: as MLflow finds it")
JSON = click.option("--json", "as_json", is_flag=True, help="print JSON")

_FILTERS = (
    click.option("--experiment", multiple=True, help="where to look (name or id), once or more; default: all"),
    click.option(
        "--status",
        type=click.Choice(("OK", "ERROR", "IN_PROGRESS"), case_sensitive=False),
        help="only traces that ended so",
    ),
    click.option("--since", metavar="TIME", help="how long ago (15m, 2h, 7d), or a date or time (2026-01-31)"),
    click.option(
        "--tag", multiple=True, metavar="KEY=VALUE", help="only traces with this tag; all of them, if several"
    ),
    click.option("--name", help="only traces of this name; * stands for any text"),
)


def filters(function: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options that say which traces: they become one, `search`, by `search_of`."""
    for option in reversed(_FILTERS):
        function = option(function)
    return function


def search_of(said: Mapping[str, Any]) -> Search:
    """Return the search that the options of `filters` say.

    Raises:
        ValueError: if one says nothing sensible.
    """
    from dspy_mlflow_callbacks.stored.search import Search, since_ms  # noqa: PLC0415  (imports MLflow)

    return Search(
        experiments=said["experiment"],
        status=said["status"],
        since_ms=None if said["since"] is None else since_ms(said["since"]),
        tags=_tags(said["tag"]),
        name=said["name"],
    )


def _tags(texts: Sequence[str]) -> dict[str, str]:
    tags = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals):
            message = f"--tag must be KEY=VALUE, got {text!r}"
            raise ValueError(message)
        tags[key] = value
    return tags


def with_store(name: str, tracking_uri: str | None, act: Callable[[], int]) -> int:
    """Return the exit status of what a command does with a store, which may not be there or refuse.

    Args:
        name: The command's.
        tracking_uri: The store; None for MLflow's own choice.
        act: What it does.
    """
    with _garbage_waits():
        return _with_store(name, tracking_uri, act)


@contextmanager
def _garbage_waits() -> Iterator[None]:
    """Let Python look for garbage a hundred times less often: what imports make stays, and to see so takes a fifth."""
    thresholds = gc.get_threshold()
    gc.set_threshold(100 * thresholds[0], *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)


def _with_store(name: str, tracking_uri: str | None, act: Callable[[], int]) -> int:
    import mlflow  # noqa: PLC0415  (takes seconds, which `--help` and `run` must not take)
    from mlflow.exceptions import MlflowException  # noqa: PLC0415
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    from dspy_mlflow_callbacks.export.errors import RefusedError, StoreAwayError  # noqa: PLC0415

    store_errors = (MlflowException, SQLAlchemyError, StoreAwayError, RefusedError)
    try:
        if tracking_uri is not None:
            mlflow.set_tracking_uri(tracking_uri)
        return act()
    except BrokenPipeError:
        raise  # who read has gone: click ends quietly
    except (ImportError, OSError, TypeError, ValueError, *store_errors) as error:
        complain(f"dspy-mlflow {name}: {error}")
        return COULD_NOT
