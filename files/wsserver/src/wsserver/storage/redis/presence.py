# SPDX-License-Identifier: MIT
"""The users of each room, in Redis: in the shard of the room. See scripts/presence.lua."""

from __future__ import annotations

from wsserver.cluster.leased_counts import LEASE_S
from wsserver.protocol.events import PresenceMember, PresencePage
from wsserver.storage.redis.connection import RedisAddress, reading, script
from wsserver.storage.redis.counts import RedisCounts
from wsserver.storage.redis.keys import SHARDS, prefix, shard_of


class RedisPresence(RedisCounts):
    """The totals of rooms and their users, with an index for reading pages."""

    name = "presence"
    shards = SHARDS
    hooks = ("presence.lua",)

    def __init__(self, address: RedisAddress, lease_s: float = LEASE_S) -> None:
        super().__init__(address, lease_s)
        self._reads = address.client(connections=4)
        self._page = self._reads.register_script(script("presence_page.lua", flags="no-writes"))

    def _keys(self, shard: int, worker: str) -> list[str]:
        return [*super()._keys(shard, worker), self.key(shard, "index")]

    def _live(self, shard: int) -> str:
        return f"{prefix(shard)}:live:"  # as in RoomKeys

    def shard_of(self, room: str) -> int:
        return shard_of(room)

    async def page(self, room: str, after: str, limit: int) -> PresencePage:
        shard = shard_of(room)
        keys = [self.key(shard, "totals"), self.key(shard, "index")]
        async with reading():
            count, more, *found = await self._page(keys=keys, args=[room, after, limit])
        members = [
            PresenceMember(user.decode(), connections)
            for user, connections in zip(found[::2], found[1::2], strict=True)
        ]
        return PresencePage(room, members, count, more == 1)

    async def close(self) -> None:
        await super().close()
        await self._reads.aclose()
