"""What was worked out before, so that it is not worked out at every call."""

from __future__ import annotations

from typing import TypeVar

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Known(dict[_Key, _Value]):
    """Results by what they were made from, in a bounded number: a full one begins afresh.

    For what `functools.lru_cache` cannot do: keep some results and not others, or look whether one still holds.

    Args:
        limit: Results that are kept.
    """

    __slots__ = ("limit",)

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def keep(self, key: _Key, value: _Value) -> None:
        """Remember *value*."""
        if len(self) >= self.limit:
            self.clear()
        self[key] = value
