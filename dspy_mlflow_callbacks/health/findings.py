"""What is wrong, and what mends it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs

from dspy_mlflow_callbacks.stats import without_credentials


@attrs.frozen
class Finding:
    """Something that a user should know.

    Attributes:
        what: What is the case, in one sentence.
        remedy: The command or the setting that mends or changes it.
        is_problem: Whether traces are lost, doubled or not recorded for it; else it is a fact that may be as it
            should be.
    """

    what: str = attrs.field(converter=without_credentials)
    remedy: str = attrs.field(converter=without_credentials)
    is_problem: bool = True


def note(what: str, remedy: str) -> Finding:
    """Return a finding that is no problem."""
    return Finding(what, remedy, is_problem=False)


def told(cases: Iterable[tuple[object, Finding]]) -> Iterator[Finding]:
    """Return the findings whose cases hold."""
    return (finding for holds, finding in cases if holds)
