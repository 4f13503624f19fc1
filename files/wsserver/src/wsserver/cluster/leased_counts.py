# SPDX-License-Identifier: MIT
"""Counts that all workers keep together, right again soon after one of them was killed.

Each worker has its share in the totals: how often it counts each key. It keeps the share in memory, where counting
never waits, and tells the store what changed, in batches and as absolute numbers, so that telling twice is harmless.

A worker lives as long as its lease. When the lease ran out, any other worker takes its share out of the totals, bit by
bit; reapers do not disturb each other, nor does one that stops half-way. A worker that finds itself given up (it was
paused for too long) tells its whole share again, under a new name. When the store itself was away, all leases run out
at once: nobody reaps who has not renewed its own, without a long break, for the length of a lease.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from wsserver.errors import BrokerError, BrokerUnavailable
from wsserver.telemetry import metrics
from wsserver.telemetry.logs import log

LEASE_S = 10.0
# Bounds how long one script keeps the store from everybody else.
CHUNK = 250
# Changes wait this long for others, claims for those that come while the ones before are under way, or this long.
_GATHER_S = 0.05
_GATHER_CLAIMS_S = 0.005
_RETRY_S = 0.5


class Lease(NamedTuple):
    """One worker in one shard; `stamp` is what its last renewal or update returned, 0 before the first."""

    shard: int
    worker: str
    stamp: int


class Renewal(NamedTuple):
    """`lapsed`: some workers whose lease ran out by `now_ms`, the store's own clock."""

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
    """`refused`: for each claim 0, or 1 or 2: which of its limits is reached.

    `stamp` is 0, and nothing was done, if the update was sent with a stamp that is not the latest.
    """

    stamp: int
    refused: list[int]


class CountStore(Protocol):
    """The totals, in shards of which each changes atomically.

    All raise BrokerUnavailable: then it is unknown what was done. None in place of a result: the worker of that lease
    was given up, and nothing was done.
    """

    name: str
    shards: int
    lease_s: float

    async def renew(self, leases: list[Lease]) -> list[Renewal | None]:
        """Prolong these leases, or begin them (stamp 0). Updates that are still on their way fail from then on."""

    async def update(self, updates: list[Update]) -> list[Updated | None]:
        """Set what these workers count of some keys, grant claims after that, and prolong their leases."""

    async def reap(self, reapers: list[Lease], dead: list[str], pause_s: float) -> list[int]:
        """Take up to CHUNK keys of each dead worker's share out of the totals of a reaper's shard; how many it took.

        None for a reaper that was last heard of more than `pause_s` ago.
        """

    async def release(self, leases: list[Lease], grace_s: float) -> None:
        """Let these leases run out in `grace_s`."""

    async def close(self) -> None: ...


class _Share:
    """What this worker counts in one shard, and what the store may not know of it yet."""

    __slots__ = (
        *("claims", "counts", "known", "lapsed", "listeners", "number", "renewed_ms", "since_ms", "stamp", "telling"),
        *("untold", "worker"),
    )

    def __init__(self, number: int) -> None:
        self.number = number
        self.counts: dict[str, int] = {}
        self.claims: list[tuple[Claim, asyncio.Future[int]]] = []
        # Keys of the update that is under way, and callers that wait until the store knows of a key.
        self.telling: dict[str, int] = {}
        self.listeners: list[tuple[str, asyncio.Future[None]]] = []
        self.lapsed: list[str] = []
        # The store's times of the last renewal, and of the first of those that followed each other closely.
        self.renewed_ms = self.since_ms = 0
        self.begin()

    def begin(self) -> None:
        """Under a new name, of which the store knows nothing."""
        self.worker = secrets.token_hex(8)
        self.stamp = 0
        self.known = False  # that the store's stamp is this one
        self.untold = set(self.counts)

    @property
    def lease(self) -> Lease:
        return Lease(self.number, self.worker, self.stamp)

    @property
    def waiting(self) -> bool:
        return self.known and bool(self.untold or self.urgent)

    @property
    def urgent(self) -> bool:
        """A caller waits for the next update."""
        return bool(self.claims or self.listeners)

    def add(self, key: str, number: int) -> None:
        count = self.counts.get(key, 0) + number
        if count:
            self.counts[key] = count
        else:
            del self.counts[key]
        self.untold.add(key)

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
        heard = {key for key, _future in self.listeners[:CHUNK]} & self.untold
        self.untold -= heard
        keys = [*heard, *(self.untold.pop() for _key in range(min(CHUNK - len(heard), len(self.untold))))]
        taken, self.claims = self.claims[:CHUNK], self.claims[CHUNK:]
        self.telling = {key: self.counts.get(key, 0) for key in keys}
        return Update(self.lease, self.telling, [claim for claim, _future in taken]), [
            future for _claim, future in taken
        ]

    def updated(self, update: Update, futures: list[asyncio.Future[int]], outcome: Updated) -> None:
        self.stamp = outcome.stamp
        self.telling = {}
        waiting = []
        for key, heard in self.listeners:
            if key in self.untold:
                waiting.append((key, heard))
            elif not heard.done():
                heard.set_result(None)
        self.listeners = waiting
        for claim, future, refused in zip(update.claims, futures, outcome.refused, strict=True):
            if refused == 0:
                for key, _limit in claim:
                    self.counts[key] = self.counts.get(key, 0) + 1
            if not future.done():
                future.set_result(refused)
            elif refused == 0:  # whoever asked is gone
                self.unclaim(claim)

    def unclaim(self, claim: Claim) -> None:
        for key, _limit in claim:
            self.add(key, -1)

    def unsure(self, update: Update) -> None:
        """It is unknown whether `update` was or will be carried out: renew, then tell again what it concerned."""
        self.known = False
        self.telling = {}
        self.untold.update(update.changes)
        self.untold.update(key for claim in update.claims for key, _limit in claim)


class LeasedCounts:
    """This worker's shares in a store, and its part in keeping the totals right."""

    def __init__(self, store: CountStore) -> None:
        self._store = store
        self._shares = [_Share(number) for number in range(store.shards)]
        self._renewal_s = store.lease_s / 5
        # Longer than this without a renewal: the others may have been cut off as well, and be about to come back.
        self._pause_s = self._renewal_s * 2
        self.available = False
        self._renew_at = self._flush_at = 0.0
        self._wake = asyncio.Event()
        self._asleep = False
        metrics.TALLY_UNTOLD.labels(store.name).set_function(lambda: sum(len(share.untold) for share in self._shares))

    def add(self, shard: int, key: str, number: int) -> None:
        """Count `key` so much more, or less; the count of this worker is never below 0."""
        self._shares[shard].add(key, number)
        if self._asleep:
            self._wake.set()

    def count(self, shard: int, key: str) -> int:
        """How often this worker counts `key`."""
        return self._shares[shard].counts.get(key, 0)

    async def tell(self, shard: int, key: str) -> None:
        """Wait until the store knows how often this worker counts `key` now. Raises BrokerUnavailable."""
        share = self._shares[shard]
        if key not in share.untold and key not in share.telling:
            return
        if not self.available:
            raise BrokerUnavailable("the broker is unavailable")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        share.listeners.append((key, future))
        self._wake.set()
        await future

    async def claim(self, shard: int, claim: Claim) -> int:
        """Count both keys once more, unless the total of one, over all workers, is at its limit.

        Returns 0, or 1 or 2 for the limit that refuses it. Raises BrokerUnavailable.
        """
        if not self.available:
            raise BrokerUnavailable("the broker is unavailable")
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
        """Keep the store told and the leases renewed, and reap the dead, until cancelled. Survives outages."""
        try:
            while True:
                try:
                    await self._step()
                except BrokerError:
                    self._lost_sight()
                    await asyncio.sleep(_RETRY_S)
        finally:
            self._lost_sight()

    async def stop(self, grace_s: float) -> None:
        """After `run`: tell what is left to tell, and let the others take this worker's share out `grace_s` later."""
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
        """Until there is something to do."""
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
                self._given_up(share)
            else:
                share.renewed(renewal, self._pause_s * 1000)

    async def _flush(self) -> None:
        shares = [share for share in self._shares if share.waiting]
        taken = [share.take() for share in shares]
        try:
            outcomes = await self._store.update([update for update, _futures in taken])
        except BaseException:
            for share, (update, futures) in zip(shares, taken, strict=True):
                share.unsure(update)
                _fail(futures)
            raise
        for share, (update, futures), outcome in zip(shares, taken, outcomes, strict=True):
            if outcome is not None and outcome.stamp:
                share.updated(update, futures, outcome)
                continue
            # Not done: once more, after a renewal.
            share.unsure(update)
            share.claims[:0] = zip(update.claims, futures, strict=True)
            self._renew_at = 0.0
            if outcome is None:
                self._given_up(share)
        more = any(len(share.untold) >= CHUNK for share in shares)
        self._flush_at = 0.0 if more else time.monotonic() + _GATHER_S

    async def _reap(self, reapers: list[_Share]) -> None:
        dead = [share.lapsed[0] for share in reapers]
        taken = await self._store.reap([share.lease for share in reapers], dead, self._pause_s)
        metrics.TALLY_REAPED.labels(self._store.name).inc(sum(taken))
        for share, worker, count in zip(reapers, dead, taken, strict=True):
            if count < CHUNK:
                share.lapsed.remove(worker)

    def _given_up(self, share: _Share) -> None:
        log.warning("tally_share_given_up", tally=self._store.name, shard=share.number, keys=len(share.counts))
        metrics.TALLY_GIVEN_UP.labels(self._store.name).inc()
        share.begin()
        self._renew_at = 0.0

    def _lost_sight(self) -> None:
        """The store is away, or this worker stops: nothing that was sent counts as known, and nobody waits."""
        self.available = False
        self._renew_at = 0.0
        for share in self._shares:
            share.known = False
            _fail([future for _claim, future in share.claims])
            share.claims.clear()
            _fail([future for _key, future in share.listeners])
            share.listeners.clear()


def _fail(futures: Iterable[asyncio.Future[Any]]) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(BrokerUnavailable("the broker is unavailable"))
            future.exception()  # whoever waited for it may be gone; that is no fault to report
