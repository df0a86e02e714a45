"""Percentiles of any number of durations, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator

_GROWTH = 1.02
_LOG_GROWTH = math.log(_GROWTH)


class Latencies:
    """Counts durations in buckets that grow by 2%, as DDSketch does: a percentile is right to 1%.

    From a microsecond to a year there are some 1,600 buckets (Masson and others, DDSketch, VLDB 2019).
    """

    __slots__ = ("_counts", "count")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.count = 0

    def add(self, milliseconds: float) -> None:
        """Count a duration."""
        bucket = math.ceil(math.log(max(milliseconds, 1e-3)) / _LOG_GROWTH)
        self._counts[bucket] = self._counts.get(bucket, 0) + 1
        self.count += 1

    def percentile(self, share: float) -> float | None:
        """Return the duration in milliseconds that *share* of all are not above; None where there are none."""
        rank, seen = max(1, math.ceil(share * self.count)), 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= rank:
                return _middle(bucket)
        return None

    def histogram(self, bars: int = 24) -> Iterator[tuple[float, float, int]]:
        """Yield bars of equal width on a logarithmic axis: from, to, how many are between; in milliseconds."""
        if not self._counts:
            return
        first, last = min(self._counts), max(self._counts)
        width = max(1, math.ceil((last - first + 1) / bars))
        for low in range(first, last + 1, width):
            count = sum(self._counts.get(bucket, 0) for bucket in range(low, low + width))
            yield _GROWTH ** (low - 1), _GROWTH ** (low + width - 1), count


def _middle(bucket: int) -> float:
    return float(2 * _GROWTH**bucket / (_GROWTH + 1))
