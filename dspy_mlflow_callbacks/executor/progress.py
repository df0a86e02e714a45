"""The progress bar: rate, errors, tokens and cost, on standard error."""

from __future__ import annotations

import sys
from typing import Any

ALWAYS = "always"


class NoBar:
    """No progress bar."""

    def show(self, said: str) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class Bar:
    """A progress bar of `tqdm`.

    Args:
        total: How many inputs there are; None where nobody knows.
    """

    def __init__(self, total: int | None) -> None:
        from tqdm import tqdm  # noqa: PLC0415  (only who sees it pays for it)

        self._bar: Any = tqdm(total=total, unit="input", dynamic_ncols=True)

    def show(self, said: str) -> None:
        """Count an input that is done.

        Args:
            said: What stands behind the rate.
        """
        self._bar.set_postfix_str(said, refresh=False)
        self._bar.update()

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


def bar(progress: bool | str, total: int | None) -> Bar | NoBar:  # noqa: FBT001  (the option of `run`)
    """Return a progress bar, or none where nobody would see it.

    Args:
        progress: Whether there is one where standard error is a terminal; `"always"` elsewhere too.
        total: How many inputs there are; None where nobody knows.
    """
    is_seen = progress == ALWAYS or (progress and sys.stderr is not None and sys.stderr.isatty())
    return Bar(total) if is_seen else NoBar()
