"""Sampling by rules: the first that matches decides."""

from __future__ import annotations

import fnmatch
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

import attrs
from attrs.validators import instance_of, optional

from dspy_mlflow_callbacks import checks
from dspy_mlflow_callbacks.events import EMPTY, CallStart
from dspy_mlflow_callbacks.middleware.ratio import RatioSampler


class _Bucket:
    """A token bucket: it lets *rate* traces through a second, and as many at once after a second of quiet."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._capacity = max(1.0, rate)
        self._tokens = self._capacity
        self._filled = time.monotonic()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._rate,)  # a copy has not let anything through

    def take(self) -> bool:
        """Return whether one more trace may pass now."""
        with self._lock:
            now = time.monotonic()
            self._tokens = min(self._capacity, self._tokens + (now - self._filled) * self._rate)
            self._filled = now
            if self._tokens < 1.0:
                return False
            self._tokens -= 1.0
            return True


def _check_rate(_: object, attribute: attrs.Attribute[float | None], value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        message = f"{attribute.name} must be a number of traces per second, got {value!r}"
        raise TypeError(message)
    if not 0 < value < float("inf"):
        message = f"{attribute.name} must be greater than 0 traces per second, got {value!r}"
        raise ValueError(message)


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
        experiment: A glob that the name or the id of the trace's experiment must match; None is any.
        ratio: The share of these traces to keep, from 0 (none) to 1 (all).
        max_per_second: The most traces to keep in a second, in each process; None is no limit.

    Raises:
        TypeError: if a value is of another type.
        ValueError: if *ratio* is not from 0 to 1, or *max_per_second* not greater than 0.
    """

    name: str | None = attrs.field(default=None, validator=optional(instance_of(str)))
    tags: Mapping[str, str] = attrs.field(default=EMPTY, converter=_tag_globs, hash=False)
    experiment: str | None = attrs.field(default=None, validator=optional(instance_of(str)))
    ratio: float = attrs.field(default=1.0, validator=checks.share)
    max_per_second: float | None = attrs.field(default=None, validator=_check_rate)
    _bucket: _Bucket | None = attrs.field(init=False, repr=False, eq=False)

    __repr__ = checks.brief_repr

    @_bucket.default
    def _bucket_of_rate(self) -> _Bucket | None:
        valid = isinstance(self.max_per_second, (int, float)) and self.max_per_second > 0
        return _Bucket(float(self.max_per_second)) if valid and self.max_per_second is not None else None

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
            (self.name is None or fnmatch.fnmatchcase(call.name or "", self.name))
            and all(fnmatch.fnmatchcase(call.tags.get(tag, ""), glob) for tag, glob in self.tags.items())
            and (self.experiment is None or any(fnmatch.fnmatchcase(each, self.experiment) for each in call.experiment))
        )

    def keeps(self, call: CallStart) -> bool:
        """Return whether the trace that begins with *call*, which the rule is for, is kept."""
        return RatioSampler(self.ratio)(call) is not None and (self._bucket is None or self._bucket.take())


def _rules(rules: Any) -> tuple[SamplingRule, ...]:
    if isinstance(rules, (str, Mapping)) or not isinstance(rules, Iterable):
        message = f"rules must be an iterable of SamplingRule, got {rules!r}"
        raise TypeError(message)
    return tuple(rule if isinstance(rule, SamplingRule) else SamplingRule.from_dict(rule) for rule in rules)


@attrs.frozen
class RuleSampler:
    """Keeps traces by rules: the first one that is for a trace decides, where a trace begins.

    A rule without a limit decides by the root's id, so that every thread and process agrees. Where it was decided
    before (a remote parent, a span of your own around the call), it stands.

    Args:
        rules: The rules in order, as `SamplingRule` or as mappings of its arguments.
        default_ratio: The share of traces to keep that no rule is for.

    Raises:
        TypeError: if *rules* is no iterable of rules, or a value is of another type.
        ValueError: if a value is out of range.
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
        return RatioSampler(self.default_ratio)(call)
