# SPDX-License-Identifier: MIT
"""A limit per second of a user over all workers: of publishes, of their bytes, or of queries.

Each worker keeps a bucket for every active user. A user who takes a notable part of the limit gets
the part that the other workers do not use. If all workers together want more than the limit, each
gets a part in proportion to what it wants.
"""

from __future__ import annotations

import math
import time

from wsserver.limits.reports import PERIOD_S, Reported, ReportStore

# A bucket fills up in this time. The bucket of a user who was quiet for so long is full, and can be
# dropped, unless the user took more than the bucket had.
_BURST_S = 2.0


class _Bucket:
    __slots__ = ("filled_at", "period", "rate", "tokens", "wanted")

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self.tokens = rate * _BURST_S
        self.filled_at = now
        self.period = -1
        self.wanted = 0.0  # in this period


class UserRate(Reported):
    """`per_s`: the limit; `store`: None if this is the only worker. `scale`: the part of the limit
    that holds now, above 0 to 1.

    A user who has been quiet may use twice the rate at once, on each worker. Over several workers,
    the limit holds within about 25 % once a user has been active for two seconds or so.
    """

    def __init__(self, per_s: float, store: ReportStore | None) -> None:
        super().__init__(per_s, store)
        self.scale = 1.0
        self._per_s = per_s
        self._period = 0
        self._period_at = time.monotonic()
        # The users who were active since the last turn, and in the time before that turn.
        self._young: dict[str, _Bucket] = {}
        self._old: dict[str, _Bucket] = {}
        self._in_debt: dict[str, _Bucket] = {}  # those that had less than nothing
        self._reported: dict[str, _Bucket] = {}
        self._busy: dict[str, _Bucket] = {}

    def allow(self, user: str, units: float = 1) -> bool:
        """Whether `user` is within the limit. If so, counts `units`, which may exceed it once."""
        bucket = self._wanted(user, units)
        if bucket.tokens < 1:
            return False
        self._take(user, bucket, units)
        return True

    def charge(self, user: str, units: float) -> None:
        """Count `units` that the user has used."""
        self._take(user, self._wanted(user, units), units)

    def _take(self, user: str, bucket: _Bucket, units: float) -> None:
        bucket.tokens -= units
        if bucket.tokens < 0:
            self._in_debt[user] = bucket

    def _wanted(self, user: str, units: float) -> _Bucket:
        """The bucket of a user who wants these units, filled up to now. This runs for every publish."""
        now = time.monotonic()
        bucket = self._young.get(user)
        if bucket is None:
            bucket = self._old.pop(user, None) or _Bucket(self._per_s, now)
            self._young[user] = bucket
        self._fill(bucket, now)
        if bucket.period != self._period:
            bucket.period, bucket.wanted = self._period, 0
        bucket.wanted += units
        if bucket.wanted >= self._notable:
            self._busy[user] = bucket
        return bucket

    def _fill(self, bucket: _Bucket, now: float) -> bool:
        """Fill the bucket up to now; returns whether it is full."""
        rate = bucket.rate * self.scale
        full = max(1.0, rate * _BURST_S)
        bucket.tokens = min(full, bucket.tokens + (now - bucket.filled_at) * rate)
        bucket.filled_at = now
        return bucket.tokens == full

    async def turn(self) -> None:
        """End this period: drop the buckets of idle users, and report busy users."""
        now = time.monotonic()
        elapsed, self._period_at = now - self._period_at, now
        busy, self._busy = self._busy, {}
        self._period += 1
        if self._period % math.ceil(_BURST_S / PERIOD_S) == 0:
            self._young, self._old = {}, self._young
            self._keep_debts(now)
        for user, bucket in self._reported.items():
            if user not in busy:
                bucket.rate = self._per_s
        self._reported = busy
        rates = {user: bucket.wanted / elapsed for user, bucket in busy.items()}
        sums = await self._exchange(rates) or {}
        for user, total in sums.items():
            busy[user].rate = _part(self._per_s, rates[user], total)

    def _keep_debts(self, now: float) -> None:
        """Keep the buckets that idle users have not filled up again."""
        in_debt, self._in_debt = self._in_debt, {}
        for user, bucket in in_debt.items():
            if not self._fill(bucket, now):
                self._in_debt[user] = self._old[user] = bucket


def _part(limit: float, own: float, total: float) -> float:
    """The part of the limit that this worker may use."""
    total = max(total, own)
    return max(limit - (total - own), limit * own / total)
