# SPDX-License-Identifier: MIT
"""The users of each room, over all workers: one entry per user, with a count of connections.

A room gets a member event when a user's first connection enters and when the last one left. A
dropped connection keeps its user present for a grace: a user who reconnects within it, to any
worker, causes no event.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from wsserver.cluster.leased_counts import CountStore, LeasedCounts
from wsserver.protocol.events import PresencePage

GRACE_S = 5.0


class PresenceStore(CountStore, Protocol):
    """Totals of keys "<room> <user>".

    Sends a member event when a total leaves 0 or returns to 0.
    """

    def shard_of(self, room: str) -> int: ...

    async def page(self, room: str, after: str, limit: int) -> PresencePage: ...


class Presence:
    def __init__(self, store: PresenceStore, grace_s: float = GRACE_S) -> None:
        self._store = store
        self._counts = LeasedCounts(store)
        self._grace_s = grace_s
        # Users whose last connection on this worker dropped, and who still count: (shard, key) ->
        # end of the grace. The grace is the same for all, so the dict is in the order of these
        # ends.
        self._departing: dict[tuple[int, str], float] = {}

    def entered(self, room: str, user: str) -> None:
        """A connection of `user` joined `room`."""
        shard, key = self._store.shard_of(room), f"{room} {user}"
        if self._departing.pop((shard, key), None) is None:
            self._counts.add(shard, key, 1)

    def left(self, room: str, user: str) -> None:
        """A connection of `user` left `room` by command."""
        self._counts.add(self._store.shard_of(room), f"{room} {user}", -1)

    def dropped(self, room: str, user: str) -> None:
        """A connection of `user` in `room` was lost, and may return."""
        shard, key = self._store.shard_of(room), f"{room} {user}"
        if self._counts.count(shard, key) > 1:
            self._counts.add(shard, key, -1)
        else:
            self._departing[shard, key] = time.monotonic() + self._grace_s

    async def page(self, room: str, after: str, limit: int, caller: str | None = None) -> PresencePage:
        """Up to `limit` users that follow `after` in the order of their code points.

        Raises BrokerUnavailable.

        A change shows within a tenth of a second; a change by the `caller` on this worker shows at
        once. The user of a dropped connection counts as one connection until the grace ends.
        """
        if caller is not None:
            await self._counts.flushed(self._store.shard_of(room), f"{room} {caller}")
        return await self._store.page(room, after, limit)

    async def run(self) -> None:
        """Keep the counts current, until cancelled. Survives outages of the store."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._counts.run())
            tasks.create_task(self._end_graces())

    async def stop(self) -> None:
        """Call after `run`: users counted here stay present for the grace, then other workers send
        their leave.
        """
        await self._counts.stop(self._grace_s)

    async def _end_graces(self) -> None:
        while True:
            await asyncio.sleep(self._grace_s / 10)
            now = time.monotonic()
            for shard, key in [entry for entry, until in self._departing.items() if until <= now]:
                del self._departing[shard, key]
                self._counts.add(shard, key, -1)
