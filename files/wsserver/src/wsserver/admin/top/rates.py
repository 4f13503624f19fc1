# SPDX-License-Identifier: MIT
"""The changes between two readings of a worker's counters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from wsserver.status import Counters, Histogram


@dataclass(frozen=True)
class Rates:
    """The changes between two readings: messages per second, and counts of rare events."""

    messages_in: float
    messages_out: float
    drops: int
    publish_to_deliver: Histogram
    event_loop_lag: Histogram
    broker_publish: Histogram


def between(before: Counters, after: Counters) -> Rates | None:
    """The rates between two readings of one process. None if no time has passed in between."""
    seconds = after.clock_s - before.clock_s
    if seconds <= 0:
        return None
    return Rates(
        (after.messages_in - before.messages_in) / seconds,
        (after.messages_out - before.messages_out) / seconds,
        after.drops - before.drops,
        _minus(after.publish_to_deliver, before.publish_to_deliver),
        _minus(after.event_loop_lag, before.event_loop_lag),
        _minus(after.broker_publish, before.broker_publish),
    )


def _minus(after: Histogram, before: Histogram) -> Histogram:
    counts = [now - then for now, then in zip(after.counts, before.counts, strict=True)]
    return Histogram(after.bounds, counts, after.sum - before.sum)


def total(histograms: Sequence[Histogram]) -> Histogram | None:
    """The sum of the histograms.

    None without any, or if they have different buckets, as two releases may.
    """
    if not histograms or any(one.bounds != histograms[0].bounds for one in histograms):
        return None
    counts = [sum(column) for column in zip(*(one.counts for one in histograms), strict=True)]
    return Histogram(histograms[0].bounds, counts, sum(one.sum for one in histograms))


def quantile(histogram: Histogram, q: float) -> float | None:
    """A quantile, as Prometheus estimates it from its bucket; infinite beyond the last bound."""
    wanted = q * histogram.counts[-1]
    if not wanted:
        return None
    below, lower = 0, 0.0
    for bound, count in zip(histogram.bounds, histogram.counts, strict=False):
        if count >= wanted:
            return lower + (bound - lower) * (wanted - below) / (count - below)
        below, lower = count, bound
    return math.inf


def worst(histogram: Histogram) -> float | None:
    """An upper bound of the largest value: the bound of its bucket, or the sum of all values."""
    everything = histogram.counts[-1]
    if not everything:
        return None
    bounds = zip(histogram.bounds, histogram.counts, strict=False)
    return min(histogram.sum, next((bound for bound, count in bounds if count == everything), math.inf))
