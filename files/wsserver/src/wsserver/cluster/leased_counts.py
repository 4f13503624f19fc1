# SPDX-License-Identifier: MIT
"""Counters shared by all workers; corrected within one lease after a worker dies.

Each worker has a share in the totals: how often it counts each key. The worker keeps its share in
memory, where counting never waits. It sends changes to the store in batches, as absolute numbers,
so that a repeat is harmless.

A worker lives as long as its lease. Once the lease has expired, any other worker subtracts the
share from the totals, a part at a time. Several reapers do not disturb each other, and a reaper may
stop half-way. A worker that was given up (it was paused for too long) sends its whole share again
under a new name. After an outage of the store all leases expire at once: a worker reaps only after
it has renewed its own lease, without a long break, for the length of a lease.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from wsserver.errors import BrokerError, BrokerUnavailable
from wsserver.runtime.tasks import apart, fail
from wsserver.telemetry import metrics
from wsserver.telemetry.logs import log

LEASE_S = 10.0
# Bounds how long one script blocks the store.
CHUNK = 250
# Changes and claims wait this long for more of their kind, to go in one update.
_GATHER_S = 0.05
_GATHER_CLAIMS_S = 0.005
_RETRY_S = 0.5


class Lease(NamedTuple):
    """One worker in one shard; `stamp` is the result of the last renewal or update, 0 before the
    first.
    """

    shard: int
    worker: str
    stamp: int


class Renewal(NamedTuple):
    """`lapsed`: some workers whose lease has expired at `now_ms`, by the store's clock."""

    stamp: int
    now_ms: int
    lapsed: list[str]


class Limited(NamedTuple):
    """A key and the total that it may reach."""

    key: str
    limit: int


Claim = tuple[Limited, Limited]


class Update(NamedTuple):
    lease: Lease
    changes: dict[str, int]
    claims: list[Claim]


class Updated(NamedTuple):
    """`refused`: for each claim 0 if it was granted, else 1 or 2, the limit that is reached.

    If the update did not have the latest stamp, `stamp` is 0 and nothing was changed.
    """

    stamp: int
    refused: list[int]


class CountStore(Protocol):
    """The totals, in shards. Each shard changes atomically.

    All methods raise BrokerUnavailable: the outcome is then unknown. A result of None means that
    the worker of that lease was given up, and nothing was changed.
    """

    name: str
    shards: int
    lease_s: float

    async def renew(self, leases: list[Lease]) -> list[Renewal | None]:
        """Renew these leases, or begin them (stamp 0).

        Updates that were sent before have an old stamp and fail.
        """

    async def update(self, updates: list[Update]) -> list[Updated | None]:
        """Set these workers' counts of some keys, then grant claims, and renew their leases."""

    async def reap(self, reapers: list[Lease], dead: list[str], pause_s: float) -> list[int]:
        """Subtract up to CHUNK keys of each dead worker's share from the totals of a reaper's
        shard.

        Returns the number of keys for each dead worker: 0 for a reaper whose last renewal is older
        than `pause_s`.
        """

    async def release(self, leases: list[Lease], grace_s: float) -> None:
        """Let these leases expire in `grace_s`."""

    async def close(self) -> None: ...


class _Share:
    """This worker's counts in one shard, and the changes that the store may not have yet."""

    __slots__ = (
        *("claims", "counts", "known", "lapsed", "waiters", "number", "renewed_ms", "since_ms", "stamp", "sending"),
        *("unsent", "worker"),
    )

    def __init__(self, number: int) -> None:
        self.number = number
        self.counts: dict[str, int] = {}
        self.claims: list[tuple[Claim, asyncio.Future[int]]] = []
        # The keys of the update in flight, and the callers that wait until the store has a key.
        self.sending: dict[str, int] = {}
        self.waiters: list[tuple[str, asyncio.Future[None]]] = []
        self.lapsed: list[str] = []
        # The store's times of the last renewal, and of the first in an unbroken series of renewals.
        self.renewed_ms = self.since_ms = 0
        self.begin()

    def begin(self) -> None:
        """Start under a new name, which the store does not know."""
        self.worker = secrets.token_hex(8)
        self.stamp = 0
        self.known = False  # whether the store has this stamp
        self.unsent = set(self.counts)

    @property
    def lease(self) -> Lease:
        return Lease(self.number, self.worker, self.stamp)

    @property
    def waiting(self) -> bool:
        return self.known and bool(self.unsent or self.urgent)

    @property
    def urgent(self) -> bool:
        """Whether a caller waits for the next update."""
        return bool(self.claims or self.waiters)

    def add(self, key: str, number: int) -> None:
        count = self.counts.get(key, 0) + number
        if count:
            self.counts[key] = count
        else:
            del self.counts[key]
        self.unsent.add(key)

    def renewed(self, renewal: Renewal, pause_ms: float) -> None:
        if not 0 <= renewal.now_ms - self.renewed_ms <= pause_ms:
            self.since_ms = renewal.now_ms
        self.renewed_ms = renewal.now_ms
        self.stamp = renewal.stamp
        self.known = True
        self.lapsed = renewal.lapsed

    def may_reap(self, lease_ms: float) -> bool:
        return bool(self.lapsed) and self.known and self.renewed_ms - self.since_ms >= lease_ms

    def take(self) -> tuple[Update, list[asyncio.Future[int]]]:
        heard = {key for key, _future in self.waiters[:CHUNK]} & self.unsent
        self.unsent -= heard
        keys = [*heard, *(self.unsent.pop() for _key in range(min(CHUNK - len(heard), len(self.unsent))))]
        taken, self.claims = self.claims[:CHUNK], self.claims[CHUNK:]
        self.sending = {key: self.counts.get(key, 0) for key in keys}
        return Update(self.lease, self.sending, [claim for claim, _future in taken]), [
            future for _claim, future in taken
        ]

    def updated(self, update: Update, futures: list[asyncio.Future[int]], outcome: Updated) -> None:
        self.stamp = outcome.stamp
        self.sending = {}
        waiting = []
        for key, heard in self.waiters:
            if key in self.unsent:
                waiting.append((key, heard))
            elif not heard.done():
                heard.set_result(None)
        self.waiters = waiting
        for claim, future, refused in zip(update.claims, futures, outcome.refused, strict=True):
            if refused == 0:
                for key, _limit in claim:
                    self.counts[key] = self.counts.get(key, 0) + 1
            if not future.done():
                future.set_result(refused)
            elif refused == 0:  # the caller is gone
                self.unclaim(claim)

    def unclaim(self, claim: Claim) -> None:
        for key, _limit in claim:
            self.add(key, -1)

    def outcome_unknown(self, update: Update) -> None:
        """The store may or may not apply `update`: renew first, then send its keys again."""
        self.known = False
        self.sending = {}
        self.unsent.update(update.changes)
        self.unsent.update(key for claim in update.claims for key, _limit in claim)


class LeasedCounts:
    """This worker's shares in a store. Also reaps the shares of dead workers."""

    def __init__(self, store: CountStore) -> None:
        self._store = store
        self._shares = [_Share(number) for number in range(store.shards)]
        self._renewal_s = store.lease_s / 5
        # After a longer break, other workers may have been cut off as well, and be about to return.
        self._pause_s = self._renewal_s * 2
        self.available = False
        self._renew_at = self._flush_at = 0.0
        self._wake = asyncio.Event()
        self._asleep = False
        metrics.TALLY_UNTOLD.labels(store.name).set_function(lambda: sum(len(share.unsent) for share in self._shares))

    def add(self, shard: int, key: str, number: int) -> None:
        """Add `number` to this worker's count of `key`; the caller never makes a count negative."""
        self._shares[shard].add(key, number)
        if self._asleep:
            self._wake.set()

    def count(self, shard: int, key: str) -> int:
        """How often this worker counts `key`."""
        return self._shares[shard].counts.get(key, 0)

    async def flushed(self, shard: int, key: str) -> None:
        """Wait until the store has this worker's current count of `key`.

        Raises BrokerUnavailable.
        """
        share = self._shares[shard]
        if key not in share.unsent and key not in share.sending:
            return
        if not self.available:
            raise BrokerUnavailable()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        share.waiters.append((key, future))
        self._wake.set()
        await future

    async def claim(self, shard: int, claim: Claim) -> int:
        """Add 1 to both keys, unless the total of either, over all workers, is at its limit.

        Returns 0 if granted, else 1 or 2, the limit that is reached. Raises BrokerUnavailable.
        """
        if not self.available:
            raise BrokerUnavailable()
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._shares[shard].claims.append((claim, future))
        self._wake.set()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None and future.result() == 0:
                self._shares[shard].unclaim(claim)  # granted in the same turn of the loop
            raise

    async def run(self) -> None:
        """Send changes, renew the leases and reap dead workers, until cancelled.

        Survives outages.
        """
        try:
            while True:
                try:
                    await apart(self._step())
                except (BrokerError, TimeoutError):
                    self._on_store_lost()
                    await asyncio.sleep(_RETRY_S)
        finally:
            self._on_store_lost()

    async def stop(self, grace_s: float) -> None:
        """After `run`: send the last changes.

        Other workers subtract this worker's share `grace_s` later.
        """
        with suppress(BrokerError):
            await self._renew()
            while any(share.waiting for share in self._shares):
                await self._flush()
            await self._store.release([share.lease for share in self._shares if share.known], grace_s)
        await self._store.close()

    async def _step(self) -> None:
        if time.monotonic() >= self._renew_at:
            await self._renew()
        if self._due():
            await self._flush()
        reapers = [share for share in self._shares if share.may_reap(self._store.lease_s * 1000)]
        if reapers:
            await self._reap(reapers)
        await self._sleep(_GATHER_S if reapers else self._renew_at - time.monotonic())

    def _due(self) -> bool:
        now = time.monotonic()
        return any(share.waiting and (share.urgent or now >= self._flush_at) for share in self._shares)

    async def _sleep(self, longest_s: float) -> None:
        """Sleep until there is something to send, to renew or to reap."""
        self._wake.clear()
        await asyncio.sleep(_GATHER_CLAIMS_S)
        urgent = any(share.urgent for share in self._shares)
        if any(share.waiting for share in self._shares):
            longest_s = 0 if urgent else min(longest_s, self._flush_at - time.monotonic())
        else:
            self._asleep = True
        if longest_s > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(longest_s):
                    await self._wake.wait()
        self._asleep = False

    async def _renew(self) -> None:
        renewals = await self._store.renew([share.lease for share in self._shares])
        self.available = True
        self._renew_at = time.monotonic() + self._renewal_s
        for share, renewal in zip(self._shares, renewals, strict=True):
            if renewal is None:
                self._on_given_up(share)
            else:
                share.renewed(renewal, self._pause_s * 1000)

    async def _flush(self) -> None:
        shares = [share for share in self._shares if share.waiting]
        taken = [share.take() for share in shares]
        try:
            outcomes = await self._store.update([update for update, _futures in taken])
        except BaseException:
            for share, (update, futures) in zip(shares, taken, strict=True):
                share.outcome_unknown(update)
                _fail(futures)
            raise
        for share, (update, futures), outcome in zip(shares, taken, outcomes, strict=True):
            if outcome is not None and outcome.stamp:
                share.updated(update, futures, outcome)
                continue
            # Not applied: send it again after a renewal.
            share.outcome_unknown(update)
            share.claims[:0] = zip(update.claims, futures, strict=True)
            self._renew_at = 0.0
            if outcome is None:
                self._on_given_up(share)
        more = any(len(share.unsent) >= CHUNK for share in shares)
        self._flush_at = 0.0 if more else time.monotonic() + _GATHER_S

    async def _reap(self, reapers: list[_Share]) -> None:
        dead = [share.lapsed[0] for share in reapers]
        taken = await self._store.reap([share.lease for share in reapers], dead, self._pause_s)
        metrics.TALLY_REAPED.labels(self._store.name).inc(sum(taken))
        for share, worker, count in zip(reapers, dead, taken, strict=True):
            if count < CHUNK:
                share.lapsed.remove(worker)

    def _on_given_up(self, share: _Share) -> None:
        log.warning("tally_share_given_up", tally=self._store.name, shard=share.number, keys=len(share.counts))
        metrics.TALLY_GIVEN_UP.labels(self._store.name).inc()
        share.begin()
        self._renew_at = 0.0

    def _on_store_lost(self) -> None:
        """The store is unavailable, or this worker stops: forget the stamps, and fail all callers
        that wait.
        """
        self.available = False
        self._renew_at = 0.0
        for share in self._shares:
            share.known = False
            _fail([future for _claim, future in share.claims])
            share.claims.clear()
            _fail([future for _key, future in share.waiters])
            share.waiters.clear()


def _fail(futures: Iterable[asyncio.Future[Any]]) -> None:
    for future in futures:
        fail(future, BrokerUnavailable())
