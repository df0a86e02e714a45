"""A progress bar on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


@contextmanager
def progress_bar(
    what: str = "reading traces", *, is_shown: bool, console: Console | None = None
) -> Iterator[Callable[[], None]]:
    """Show how many traces were read, or whatever is done with them; the function that it gives is called for each.

    How many there are is not known before: the store gives pages.
    """
    if not is_shown:
        yield lambda: None  # rich would count all the same
        return
    console = console or Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), TextColumn("{task.completed:,}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda: progress.advance(task)
