# SPDX-License-Identifier: MIT
"""Who is in which room, over all workers: one entry per user, with a count of connections.

A room is told when a user's first connection enters and when the last one left. A connection that drops keeps its user
present for a grace: who reconnects within it, to whichever worker, was never away.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from wsserver.cluster.leased_counts import CountStore, LeasedCounts
from wsserver.protocol.messages import PresencePage

GRACE_S = 5.0


class PresenceStore(CountStore, Protocol):
    """Totals of keys "<room> <user>"; sends the member events when a total leaves 0 or comes back to it."""

    def shard_of(self, room: str) -> int: ...

    async def page(self, room: str, after: str, limit: int) -> PresencePage: ...


class Presence:
    def __init__(self, store: PresenceStore, grace_s: float = GRACE_S) -> None:
        self._store = store
        self._counts = LeasedCounts(store)
        self._grace_s = grace_s
        # Users whose last connection on this worker dropped, still counted as one: (shard, key) -> until when. All
        # have the same grace: the dict is in the order of their ends.
        self._ghosts: dict[tuple[int, str], float] = {}

    def entered(self, room: str, user: str) -> None:
        """A connection of `user` joined `room`."""
        shard, key = self._store.shard_of(room), f"{room} {user}"
        if self._ghosts.pop((shard, key), None) is None:
            self._counts.add(shard, key, 1)

    def left(self, room: str, user: str) -> None:
        """A connection of `user` that was in `room` left it on purpose."""
        self._counts.add(self._store.shard_of(room), f"{room} {user}", -1)

    def dropped(self, room: str, user: str) -> None:
        """A connection of `user` that was in `room` is gone, and may come back."""
        shard, key = self._store.shard_of(room), f"{room} {user}"
        if self._counts.count(shard, key) > 1:
            self._counts.add(shard, key, -1)
        else:
            self._ghosts[shard, key] = time.monotonic() + self._grace_s

    async def page(self, room: str, after: str, limit: int) -> PresencePage:
        """Up to `limit` users that follow `after` in the order of their code points. Raises BrokerUnavailable.

        A change shows within a tenth of a second. The user of a dropped connection counts as one until the grace ends.
        """
        return await self._store.page(room, after, limit)

    async def run(self) -> None:
        """Until cancelled; survives outages of the store."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._counts.run())
            tasks.create_task(self._lay_ghosts())

    async def stop(self) -> None:
        """After `run`: whoever is still counted here stays present for the grace, and others then see them leave."""
        await self._counts.stop(self._grace_s)

    async def _lay_ghosts(self) -> None:
        while True:
            await asyncio.sleep(self._grace_s / 10)
            now = time.monotonic()
            for shard, key in [ghost for ghost, until in self._ghosts.items() if until <= now]:
                del self._ghosts[shard, key]
                self._counts.add(shard, key, -1)
