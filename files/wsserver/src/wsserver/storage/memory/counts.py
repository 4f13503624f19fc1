# SPDX-License-Identifier: MIT
"""The totals of `ws-server dev`: one worker, whose share is the total."""

from __future__ import annotations

import time
from collections.abc import Callable

from wsserver.cluster.leased_counts import LEASE_S, Lease, Renewal, Update, Updated
from wsserver.protocol.events import PresenceMember, PresencePage


class MemoryCounts:
    name = "connections"
    shards = 1
    lease_s = LEASE_S

    def __init__(self) -> None:
        self._totals: dict[str, int] = {}

    async def renew(self, leases: list[Lease]) -> list[Renewal | None]:
        now_ms = time.monotonic_ns() // 1_000_000
        return [Renewal(lease.stamp + 1, now_ms, []) for lease in leases]

    async def update(self, updates: list[Update]) -> list[Updated | None]:
        return [self._updated(update) for update in updates]

    def _updated(self, update: Update) -> Updated:
        for key, count in update.changes.items():
            self._set(key, count)
        refused = []
        for claim in update.claims:
            full = [self._totals.get(key, 0) >= limit for key, limit in claim]
            if not any(full):
                for key, _limit in claim:
                    self._set(key, self._totals.get(key, 0) + 1)
            refused.append(full.index(True) + 1 if any(full) else 0)
        return Updated(update.lease.stamp + 1, refused)

    def _set(self, key: str, count: int) -> None:
        if count:
            self._totals[key] = count
        else:
            self._totals.pop(key, None)

    async def reap(self, reapers: list[Lease], dead: list[str], pause_s: float) -> list[int]:
        return [0 for _worker in dead]  # there is no other worker

    async def release(self, leases: list[Lease], grace_s: float) -> None:
        self._totals.clear()

    async def close(self) -> None:
        pass


class MemoryPresence(MemoryCounts):
    """`on_member` is called with a room, a user, and whether the user came (True) or left."""

    name = "presence"

    def __init__(self, on_member: Callable[[str, str, bool], None]) -> None:
        super().__init__()
        self._on_member = on_member
        self._rooms: dict[str, dict[str, int]] = {}

    def shard_of(self, room: str) -> int:
        return 0

    def _set(self, key: str, count: int) -> None:
        room, _space, user = key.partition(" ")
        users = self._rooms.setdefault(room, {})
        before = users.get(user, 0)
        if count:
            users[user] = count
        else:
            users.pop(user, None)
            if not users:
                del self._rooms[room]
        if (before > 0) != (count > 0):
            self._on_member(room, user, count > 0)

    async def page(self, room: str, after: str, limit: int) -> PresencePage:
        users = self._rooms.get(room, {})
        following = sorted(user for user in users if user > after)
        members = [PresenceMember(user, users[user]) for user in following[:limit]]
        return PresencePage(room, members, len(users), len(following) > limit)
