# SPDX-License-Identifier: MIT
"""The presence of several workers on one Redis, and the member events of their rooms."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import suppress
from typing import Any, Self

from support.pausable import Pausable
from support.redis_server import RedisServer
from support.wait import until
from wsserver.cluster.leased_counts import Update, Updated
from wsserver.errors import BrokerUnavailable
from wsserver.rooms.presence import Presence
from wsserver.storage.redis.connection import RedisAddress
from wsserver.storage.redis.presence import RedisPresence

# Short enough to wait for, long enough for a machine that is busy with something else.
LEASE_S = 1.5
GRACE_S = 1.0


class Store(RedisPresence):
    busy = 0

    async def update(self, updates: list[Update]) -> list[Updated | None]:
        self.busy += 1
        try:
            return await super().update(updates)
        finally:
            self.busy -= 1


class Worker(Pausable, Presence):
    def __init__(self, redis: RedisServer, lease_s: float = LEASE_S, grace_s: float = GRACE_S) -> None:
        self.store = Store(RedisAddress(redis.url), lease_s)
        super().__init__(self.store, grace_s)

    def start(self) -> Self:
        self.go_on()
        return self

    async def stopped(self) -> None:
        await self.pause()
        await self.stop()

    async def flushed(self) -> None:
        """Wait until Redis has all counts."""
        shares = self._counts._shares
        await until(lambda: not self.store.busy and all(share.known and not share.unsent for share in shares))

    async def members(self, room: str) -> dict[str, int]:
        """All members, page by page."""
        found: dict[str, int] = {}
        after = ""
        while True:
            page = await self.page(room, after, 100)
            users = [member.user for member in page.members]
            assert users == sorted({*users} - {*found})
            found.update({member.user: member.connections for member in page.members})
            if not page.more:
                return found
            after = users[-1]

    async def until_members(self, room: str, expected: dict[str, int]) -> None:
        found: dict[str, int] | None = None
        async with asyncio.timeout(30):
            while found != expected:
                await asyncio.sleep(0.05)
                with suppress(BrokerUnavailable):
                    found = await self.members(room)
        assert (await self.page(room, "", 1)).count == len(expected)


class MemberEvents:
    """The member events of all rooms, in their order."""

    def __init__(self, redis: RedisServer) -> None:
        self._pubsub = redis.client().pubsub(ignore_subscribe_messages=True)
        self._pubsub.psubscribe("ws:1:*:live:*")
        self._pubsub.get_message(timeout=5)
        self.seen: list[tuple[str, str, bool]] = []

    def read(self) -> list[tuple[str, str, bool]]:
        while (message := self._pubsub.get_message()) is not None:
            assert message["data"].startswith(b'{"member":')
            event = json.loads(message["data"])
            room = message["channel"].decode().split(":live:", 1)[1]
            self.seen.append((room, event["member"], event["joined"] == 1))
        return self.seen

    def present(self) -> set[tuple[str, str]]:
        """The users present by these events, which must alternate for each user."""
        there: set[tuple[str, str]] = set()
        for room, user, joined in self.read():
            assert ((room, user) in there) != joined, f"sent twice: {(room, user, joined)}"
            (there.add if joined else there.discard)((room, user))
        return there


def calls(redis: RedisServer) -> Counter[str]:
    """How often each command was executed so far, those within scripts included."""
    stats: dict[str, Any] = redis.client().info("commandstats")
    return Counter({name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()})
