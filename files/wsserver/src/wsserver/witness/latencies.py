# SPDX-License-Identifier: MIT
"""A histogram of latencies: many values in little memory."""

from __future__ import annotations

import math
from collections import Counter

# The ratio of the bounds of two neighbouring buckets: a percentile is at most 2 % too long.
_GROWTH = math.log(1.02)
_LEAST_S = 1e-6


class Latencies:
    """The latencies of any number of events."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._longest_s = 0.0

    def add(self, seconds: float) -> None:
        self._counts[math.ceil(math.log(max(seconds, _LEAST_S)) / _GROWTH)] += 1
        self._longest_s = max(self._longest_s, seconds)

    def percentile(self, percent: float) -> float | None:
        """A percentile in seconds; None without events."""
        wanted = self._counts.total() * percent / 100
        passed = 0
        for bucket in sorted(self._counts):
            passed += self._counts[bucket]
            if passed >= wanted:
                return min(math.exp(bucket * _GROWTH), self._longest_s)
        return None
