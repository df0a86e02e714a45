"""Sampling by rules: the first that matches decides."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
from attrs.validators import instance_of, optional

from dspy_mlflow_callbacks import checks
from dspy_mlflow_callbacks.events import EMPTY, CallStart
from dspy_mlflow_callbacks.forks import FORKS
from dspy_mlflow_callbacks.middleware.globs import matches
from dspy_mlflow_callbacks.middleware.ratio import RatioSampler

# The ratios of a program's rules are few, and a sampler is a pure function.
_sampler = functools.lru_cache(maxsize=256)(RatioSampler)


class TokenBucket:
    """Lets *rate* things through a second on average, and as many at once, one at least, after some quiet.

    Args:
        rate: Things per second.
        clock: Tells the time in seconds; it never goes back.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._capacity = max(1.0, rate)
        self._tokens = self._capacity
        self._filled = clock()
        self._lock = FORKS.lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._rate, self._clock)  # a copy has not let anything through

    def take(self) -> bool:
        """Return whether one more may pass now."""
        with self._lock:
            now = self._clock()
            self._tokens = min(self._capacity, self._tokens + (now - self._filled) * self._rate)
            self._filled = now
            if self._tokens < 1.0:
                return False
            self._tokens -= 1.0
            return True


_rate = checks.number(
    "a number of traces per second",
    lambda value: 0 < value < math.inf,
    in_range="greater than 0 traces per second and finite",
)


def _tag_globs(value: Any) -> Mapping[str, str]:
    if not isinstance(value, Mapping) or not all(isinstance(text, str) for item in value.items() for text in item):
        message = f"tags must be a mapping of tag names to globs, got {value!r}"
        raise TypeError(message)
    return dict(value)


@attrs.frozen(kw_only=True)
class SamplingRule:
    """How many of some traces are kept.

    Args:
        name: A glob that the name of the trace's root must match, such as `Search*`; None is any.
        tags: Globs by tag, all of which the trace must have when it begins; empty is any.
        experiment: A glob that the name or the id of the trace's experiment must match; None is any. Where the store
            does not say its name, the id alone is looked at.
        ratio: The share of these traces to keep, from 0 (none) to 1 (all).
        max_per_second: The most traces to keep, of those that *ratio* keeps, in traces per second on average; after
            some quiet as many at once, one at least. It is counted in each process and callback for itself. None is no
            limit.

    Raises:
        TypeError: if a value is of another type.
        ValueError: if *ratio* is not from 0 to 1, or *max_per_second* not greater than 0.

    Example:
        ```python
        SamplingRule(name="Search*", tags={"env": "prod"}, ratio=0.1, max_per_second=5)
        ```
    """

    name: str | None = attrs.field(default=None, validator=optional(instance_of(str)))
    tags: Mapping[str, str] = attrs.field(default=EMPTY, converter=_tag_globs, hash=False)
    experiment: str | None = attrs.field(default=None, validator=optional(instance_of(str)))
    ratio: float = attrs.field(default=1.0, validator=checks.share)
    max_per_second: float | None = attrs.field(default=None, validator=checks.argument(checks.optional(_rate)))
    _bucket: TokenBucket | None = attrs.field(init=False, repr=False, eq=False)

    __repr__ = checks.brief_repr

    @_bucket.default
    def _bucket_of_rate(self) -> TokenBucket | None:
        rate = self.max_per_second
        # Reached before the validator has run, so it must not fail on what the validator will refuse.
        return TokenBucket(float(rate)) if isinstance(rate, (int, float)) and rate > 0 else None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SamplingRule:
        """Return the rule that a JSON object says, its keys being the arguments.

        Raises:
            TypeError: if *values* is no mapping, or has another key.
        """
        names = [field.alias for field in attrs.fields(cls) if field.init]
        if not isinstance(values, Mapping) or not values.keys() <= set(names):
            message = f"a sampling rule must be an object with any of {', '.join(map(str, names))}, got {values!r}"
            raise TypeError(message)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return the rule as a JSON object: what is not at its default."""
        shown = {field.name: getattr(self, field.name) for field in attrs.fields(type(self)) if field.init}
        shown["tags"] = dict(self.tags) or None
        return {name: value for name, value in shown.items() if value is not None}

    def matches(self, call: CallStart) -> bool:
        """Return whether the rule is for the trace that begins with *call*."""
        return (
            (self.name is None or matches(call.name, (self.name,)))
            and all(tag in call.tags and matches(call.tags[tag], (glob,)) for tag, glob in self.tags.items())
            and (self.experiment is None or any(matches(each, (self.experiment,)) for each in call.experiment))
        )

    def keeps(self, call: CallStart) -> bool:
        """Return whether the trace that begins with *call*, which the rule is for, is kept."""
        return _sampler(self.ratio).may_keep(call.root_call_id) and (self._bucket is None or self._bucket.take())


def _rules(rules: Any) -> tuple[SamplingRule, ...]:
    if isinstance(rules, (str, Mapping)) or not isinstance(rules, Iterable):
        message = f"rules must be an iterable of SamplingRule, got {rules!r}"
        raise TypeError(message)
    return tuple(rule if isinstance(rule, SamplingRule) else SamplingRule.from_dict(rule) for rule in rules)


@attrs.frozen
class RuleSampler:
    """Keeps traces by rules: the first one that is for a trace decides, each whole or not at all.

    The rules are asked once for an execution, at its outermost call, also where a filter gives that call no span. A
    rule without a limit decides by the root call's id, like `RatioSampler`, so that every thread and process agrees.
    Where it was decided before, that stands: see `RatioSampler`.

    Args:
        rules: The rules in order, as `SamplingRule` or as mappings of its arguments.
        default_ratio: The share of traces to keep that no rule is for.

    Raises:
        TypeError: if *rules* is no iterable of rules, or a value is of another type.
        ValueError: if a value is out of range.

    Example:
        ```python
        rules = [{"name": "Search*", "ratio": 0.1}, {"tags": {"env": "test"}, "ratio": 0}, {"max_per_second": 5}]
        MlflowCallback(middleware=[RuleSampler(rules, default_ratio=0.5)])
        MlflowCallback(sampling_rules=rules, sampling_ratio=0.5)  # the same as options
        ```
    """

    rules: tuple[SamplingRule, ...] = attrs.field(converter=_rules)
    default_ratio: float = attrs.field(default=1.0, validator=checks.share)

    def __call__(self, call: CallStart) -> CallStart | None:
        """Return *call* if its trace is kept, else None."""
        if call.is_sampled or not call.is_entry:
            return call
        for rule in self.rules:
            if rule.matches(call):
                return call if rule.keeps(call) else None
        return _sampler(self.default_ratio)(call)

    def may_keep(self, root_call_id: str) -> bool:
        """Return whether there is a rule, or the default, that would keep the trace with this root."""
        return _sampler(max([self.default_ratio, *(rule.ratio for rule in self.rules)])).may_keep(root_call_id)
