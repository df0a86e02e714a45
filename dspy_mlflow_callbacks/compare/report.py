"""What comparisons have in common: their forms and their checks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from dspy_mlflow_callbacks.compare import forms
from dspy_mlflow_callbacks.compare.checks import Checks, Found, run_checks
from dspy_mlflow_callbacks.compare.document import Document


class Comparison(ABC):
    """A result that can be written in several forms and held to limits."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return all that was found as JSON values."""

    @abstractmethod
    def _document(self) -> Document:
        """Return what the forms say."""

    @abstractmethod
    def _found(self) -> Found:
        """Return what checks look at."""

    def to_markdown(self) -> str:
        """Return the comparison as Markdown, for a pull request's comment."""
        return forms.to_markdown(self._document())

    def to_html(self) -> str:
        """Return the comparison as an HTML page that loads nothing; all that comes from traces is escaped."""
        return forms.to_html(self._document(), "Comparison of traces")

    def show(self, console: Console | None = None) -> None:
        """Print the comparison, in colour where that is a terminal.

        Args:
            console: Where to; None is standard output.
        """
        forms.show(self._document(), console)

    def check(
        self,
        *,
        max_cost_increase: float | None = None,
        max_latency_increase: float | None = None,
        min_score: float | Mapping[str, float] | None = None,
        allow_structure_change: bool = False,
    ) -> Checks:
        """Hold the comparison to limits: in a test or a pipeline this line fails if the candidate is worse.

        It raises, so that nobody has to remember an `assert`.

        Args:
            max_cost_increase: By what share the cost may rise, in the sum over all that was compared: 0.1 is 10%. None
                does not check it.
            max_latency_increase: By what share the latency may rise: the candidate's median against the baseline's, of
                two traces the root's. None does not check it.
            min_score: What the candidate's mean score must at least be: one number for all scores, or one for each
                name. Scores are MLflow feedback on the traces. None does not check it.
            allow_structure_change: Whether spans may be added, removed or moved.

        Returns:
            The checks that were made; all have passed.

        Raises:
            CheckFailedError: an `AssertionError` that says which checks failed; `error.checks.failed` has them.
            TypeError: if a limit is of the wrong type.
            ValueError: if a limit is out of range, or cannot be checked because cost or scores are not known.
        """
        return run_checks(
            self._found(),
            max_cost_increase=max_cost_increase,
            max_latency_increase=max_latency_increase,
            min_score=min_score,
            allow_structure_change=allow_structure_change,
        )
