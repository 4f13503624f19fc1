# SPDX-License-Identifier: MIT
"""How many publishes a second a user may send over all workers.

Each worker keeps a bucket per user that publishes. Users who take a notable part of the limit here are reported once a
second, and get the part of it that the other workers leave: what those do not use, or, when all together want more
than the limit, a part in proportion to what is wanted here.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import Protocol

from wsserver.errors import BrokerError

_PERIOD_S = 1.0
# A bucket holds what comes in this time, and whoever has not published for so long has a full one: it can be forgotten.
_BURST_S = 2.0
# A user with less than this part of the limit here is not worth a report.
_NOTABLE = 1 / 16


class RateStore(Protocol):
    async def exchange(self, rates: dict[str, float]) -> dict[str, float]:
        """Tell how much of each user this worker saw, per second; returns the sums over all workers.

        A report counts for a little more than two seconds. Raises BrokerUnavailable.
        """

    async def close(self) -> None: ...


class _Bucket:
    __slots__ = ("filled_at", "period", "rate", "tokens", "wanted")

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self.tokens = rate * _BURST_S
        self.filled_at = now
        self.period = -1
        self.wanted = 0  # in this period


class PublishRates:
    """`per_s`: the limit; `store`: None if this is the only worker.

    A user who has been quiet may send twice the rate at once, on each worker. Over several workers the limit
    is kept within about 25 % once a user has published for two seconds or so.
    """

    def __init__(self, per_s: float, store: RateStore | None) -> None:
        self._per_s = per_s
        self._store = store
        self._notable = max(1, math.ceil(per_s * _NOTABLE))
        self._period = 0
        self._period_at = time.monotonic()
        # Those who published since the last turn, and in the time before that.
        self._young: dict[str, _Bucket] = {}
        self._old: dict[str, _Bucket] = {}
        self._reported: dict[str, _Bucket] = {}
        self._busy: dict[str, _Bucket] = {}

    def allow(self, user: str) -> bool:
        """Whether one more publish of `user` is within the limit, which then counts it."""
        now = time.monotonic()
        bucket = self._young.get(user)
        if bucket is None:
            bucket = self._old.pop(user, None) or _Bucket(self._per_s, now)
            self._young[user] = bucket
        if bucket.period != self._period:
            bucket.period, bucket.wanted = self._period, 0
        bucket.wanted += 1
        if bucket.wanted == self._notable:
            self._busy[user] = bucket
        full = max(1.0, bucket.rate * _BURST_S)
        bucket.tokens = min(full, bucket.tokens + (now - bucket.filled_at) * bucket.rate)
        bucket.filled_at = now
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True

    async def run(self) -> None:
        """Until cancelled; while the store is away, what it said last holds."""
        while True:
            await asyncio.sleep(_PERIOD_S)
            await self.turn()

    async def stop(self) -> None:
        """After `run`."""
        if self._store is not None:
            await self._store.close()

    async def turn(self) -> None:
        """End this period: forget who is idle, report who is busy."""
        now = time.monotonic()
        elapsed, self._period_at = now - self._period_at, now
        busy, self._busy = self._busy, {}
        self._period += 1
        if self._period % math.ceil(_BURST_S / _PERIOD_S) == 0:
            self._young, self._old = {}, self._young
        if self._store is None:
            return
        for user, bucket in self._reported.items():
            if user not in busy:
                bucket.rate = self._per_s
        self._reported = busy
        rates = {user: bucket.wanted / elapsed for user, bucket in busy.items()}
        try:
            sums = await self._store.exchange(rates) if rates else {}
        except BrokerError:
            return
        for user, total in sums.items():
            busy[user].rate = _part(self._per_s, rates[user], total)


def _part(limit: float, own: float, total: float) -> float:
    """Of the limit, what this worker may use."""
    total = max(total, own)
    return max(limit - (total - own), limit * own / total)
