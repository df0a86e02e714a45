"""What a run consists of, and how it ends."""

from __future__ import annotations

from typing import Any

import attrs

from dspy_mlflow_callbacks.executor.pages import Pages
from dspy_mlflow_callbacks.executor.places import Place
from dspy_mlflow_callbacks.executor.progress import Bar, NoBar
from dspy_mlflow_callbacks.executor.root import Root
from dspy_mlflow_callbacks.executor.window import Slot, Window


@attrs.frozen(eq=False, kw_only=True)
class Conduct:
    """The parts of a run.

    Attributes:
        name: The run's name.
        on_error: What becomes of an error: `raise`, `keep` or `skip`.
        size: The most inputs that are under way or done and not handed out.
        window: The inputs under way.
        place: Where they are worked on.
        root: The span of the whole run; None where there is none.
        pages: Where traces are found.
        bar: The progress bar.
    """

    name: str
    on_error: str
    size: int
    window: Window
    place: Place
    root: Root | None
    pages: Pages
    bar: Bar | NoBar

    @property
    def trace_id(self) -> str | None:
        """The trace of the whole run."""
        return None if self.root is None else self.root.trace_id

    def stop(self) -> list[Slot]:
        """Begin nothing more, wait for what is running, and return what is done."""
        self.window.close()
        self.place.cancel()
        return self.window.stop()

    def end(self, error: BaseException | None, counts: Any) -> None:
        """End workers, root and progress bar, when nothing is running any more.

        Args:
            error: What stopped the run; None if it came to its end.
            counts: What the root's span shows as outputs.
        """
        self.window.close()
        self.window.join()
        self.place.close(wait=not self.window.has_stuck)
        self._end_root(error, attrs.asdict(counts))

    def abandon(self) -> None:
        """End the run where nobody waits for it any more."""
        self.window.close()
        self.place.cancel()
        self.place.close(wait=False)
        self._end_root(None, {})

    def _end_root(self, error: BaseException | None, said: dict[str, Any]) -> None:
        if self.root is not None:
            self.root.close(error, said)
        self.bar.close()
