"""Sampling of traces that have ended: what a trace has become decides whether it is stored."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import attrs
import orjson
from attrs.validators import instance_of

from dspy_mlflow_callbacks import checks

# As `RatioSampler` has it: uuid4 fixes bits of an id in front of its last 14 hexadecimal digits.
_RANDOM_DIGITS = 14


_bound = checks.argument(
    checks.optional(checks.number("a number or None", lambda value: value >= 0, in_range="at least 0"))
)


def _callable_or_none(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and (not callable(value) or isinstance(value, type)):
        message = f"{attribute.name} must be a callable EndedTrace -> bool, got {value!r}"
        raise TypeError(message)


class TailSamplerError(Exception):
    """A tail sampler failed, so that it could not say whether a trace is kept."""

    def __init__(self, sampler: object, error: Exception) -> None:
        super().__init__(repr(error))
        self.sampler = sampler


@attrs.frozen(eq=False)
class EndedTrace:
    """A trace that has ended, as a tail sampler sees it; its content has not been redacted yet.

    Attributes:
        trace_id: MLflow's id of the trace.
        spans: OpenTelemetry's `ReadableSpan`s, the root first; their attributes are JSON texts by name.
        tags: The trace's tags.
    """

    trace_id: str
    spans: Sequence[Any] = attrs.field(repr=False)
    tags: Mapping[str, str]

    @property
    def name(self) -> str:
        """The name of the root."""
        return str(self.spans[0].name)

    @property
    def duration_s(self) -> float:
        """Seconds from the root's start to its end."""
        root = self.spans[0]
        return float(root.end_time - root.start_time) / 1e9

    @property
    def has_error(self) -> bool:
        """Whether any of its calls failed, be it that the program went on."""
        return any(not span.status.is_ok and not span.status.is_unset for span in self.spans)

    @property
    def tokens(self) -> int:
        """Tokens that its LM calls were billed for."""
        return int(self._sum("mlflow.chat.tokenUsage", "total_tokens"))

    @property
    def cost_usd(self) -> float:
        """What its LM calls cost in US dollars, as far as DSPy knows their prices."""
        return self._sum("mlflow.llm.cost", "total_cost")

    def _sum(self, attribute: str, key: str) -> float:
        said = {span.context.span_id: text for span in self.spans if (text := span.attributes.get(attribute))}
        if not said:
            return 0
        above = {span.context.span_id: span.parent.span_id if span.parent else None for span in self.spans}
        # As MLflow counts: what a span below says, such as that of a client that the LM calls, is said already.
        counted = [text for span_id, text in said.items() if not _is_below(span_id, said, above)]
        return sum(orjson.loads(text).get(key) or 0 for text in counted)


def _is_below(span_id: int, others: Container[int], above: Mapping[int, int | None]) -> bool:
    """Return whether one of *others* encloses a span."""
    parent = above.get(span_id)
    while parent is not None:
        if parent in others:
            return True
        parent = above.get(parent)
    return False


@attrs.frozen(kw_only=True)
class TailSampler:
    """Keeps ended traces that are worth it, and a share of the others.

    It needs whole traces, so it works with the recorded engine only. A program that runs below your own MLflow span or
    a remote parent is part of a trace that is not its own, and kept; so is what a running trace of some minutes has
    delivered already. Where *keep* fails, the trace is kept, and one warning says so.

    Args:
        keep_errors: Whether traces are kept in which a call failed.
        min_duration_s: Traces are kept that took at least that many seconds; None does not ask.
        min_cost_usd: Traces are kept that cost at least that many US dollars; None does not ask.
        min_tokens: Traces are kept that were billed for at least that many tokens; None does not ask.
        keep: Given an `EndedTrace`, says whether it is kept; None does not ask.
        background_ratio: The share of all other traces that is kept, from 0 to 1: by the trace's id, so that each
            process decides alike.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if a number is out of range.

    Example:
        ```python
        sampler = TailSampler(min_duration_s=5, background_ratio=0.01)
        dspy.configure(callbacks=[MlflowCallback(tail_sampler=sampler)])
        ```
    """

    keep_errors: bool = attrs.field(default=True, validator=instance_of(bool))
    min_duration_s: float | None = attrs.field(default=None, validator=_bound)
    min_cost_usd: float | None = attrs.field(default=None, validator=_bound)
    min_tokens: int | None = attrs.field(default=None, validator=_bound)
    keep: Callable[[EndedTrace], bool] | None = attrs.field(default=None, validator=_callable_or_none)
    background_ratio: float = attrs.field(default=0.0, validator=checks.share)

    __repr__ = checks.brief_repr

    def keeps(self, trace: EndedTrace) -> bool:
        """Return whether *trace* is stored."""
        return (
            (self.keep_errors and trace.has_error)
            or _reaches(self.min_duration_s, trace, "duration_s")
            or _reaches(self.min_cost_usd, trace, "cost_usd")
            or _reaches(self.min_tokens, trace, "tokens")
            or (self.keep is not None and bool(self.keep(trace)))
            or int(trace.trace_id[-_RANDOM_DIGITS:], 16) < self.background_ratio * 16**_RANDOM_DIGITS
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the arguments by name as JSON values.

        Raises:
            TypeError: if there is a callable, which JSON cannot say.
        """
        if self.keep is not None:
            message = f"tail_sampler is or holds a callable, which JSON cannot say: {self.keep!r}"
            raise TypeError(message)
        return {name: value for name, value in attrs.asdict(self).items() if name != "keep"}


def _reaches(bound: float | None, trace: EndedTrace, fact: str) -> bool:
    return bound is not None and getattr(trace, fact) >= bound


def tail_sampler(value: Any) -> TailSampler:
    """Return *value* as a tail sampler: one, or its arguments by name.

    Raises:
        TypeError: if it is neither, or an argument is unknown or of another type.
        ValueError: if a number is out of range.
    """
    if isinstance(value, TailSampler):
        return value
    if not isinstance(value, Mapping):
        message = f"must be a TailSampler or its arguments by name, got {value!r}"
        raise TypeError(message)
    known = [field.name for field in attrs.fields(TailSampler)]
    for name in value:
        if name not in known:
            message = f"{name!r} is no argument of TailSampler; allowed are {', '.join(known)}"
            raise TypeError(message)
    return TailSampler(**value)
