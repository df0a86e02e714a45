"""What a report adds up: calls, errors, durations, tokens and dollars of whatever has something in common."""

from __future__ import annotations

from typing import Any

import attrs

from dspy_mlflow_callbacks.report.latencies import Latencies

OTHER = "(other)"
"""What is added up together where there are too many to tell apart."""


@attrs.define
class Sum:
    """Calls that have something in common.

    Attributes:
        calls: How many.
        errors: How many of them failed.
        latencies: How long they took.
        input_tokens: Tokens that were billed for prompts.
        output_tokens: Tokens that were billed for answers.
        tokens: All tokens that were billed.
        cost: US dollars.
        cache_hits: How many DSPy's cache answered; of LMs.
        retries: How often DSPy tried again; of LMs.
    """

    calls: int = 0
    errors: int = 0
    latencies: Latencies = attrs.field(factory=Latencies)
    input_tokens: int = 0
    output_tokens: int = 0
    tokens: int = 0
    cost: float = 0.0
    cache_hits: int = 0
    retries: int = 0

    def add_call(self, milliseconds: float | None, *, has_failed: bool) -> None:
        """Count a call; one that has not ended has no duration."""
        self.calls += 1
        self.errors += has_failed
        if milliseconds is not None:
            self.latencies.add(milliseconds)

    def add_spent(self, spent: Spent) -> None:
        """Add what a call was billed."""
        self.input_tokens += spent.input_tokens
        self.output_tokens += spent.output_tokens
        self.tokens += spent.tokens
        self.cost += spent.cost

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values, with three percentiles in milliseconds."""
        said = attrs.asdict(self, filter=lambda field, _: field.name != "latencies")
        return {**said, **{f"p{share}_ms": self.latencies.percentile(share / 100) for share in (50, 95, 99)}}


@attrs.define
class Spent:
    """What was billed."""

    input_tokens: int = 0
    output_tokens: int = 0
    tokens: int = 0
    cost: float = 0.0

    def add(self, other: Spent) -> None:
        """Add what something else was billed."""
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.tokens += other.tokens
        self.cost += other.cost


class Sums(dict[str, Sum]):
    """Sums by name; from *most* names on, the rest is one."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def of(self, name: str) -> Sum:
        """Return the sum of a name, which begins at nothing."""
        if name not in self:
            name = name if len(self) < self._most else OTHER
            self.setdefault(name, Sum())
        return self[name]


@attrs.define
class Frame:
    """A place in a program's tree of calls: what stands below the same names.

    Attributes:
        name: Of the span.
        calls: How many spans stand there.
        milliseconds: How long they took together.
        cost: What they and those below them were billed, in US dollars.
        below: Its children, by name.
    """

    name: str
    calls: int = 0
    milliseconds: float = 0.0
    cost: float = 0.0
    below: dict[str, Frame] = attrs.field(factory=dict)

    def child(self, name: str, most: int) -> Frame:
        """Return the place below it of a name; where there are *most* already, one for all others."""
        if name not in self.below and len(self.below) >= most:
            name = OTHER
        return self.below.setdefault(name, Frame(name))
