# SPDX-License-Identifier: MIT
"""How full Redis's memory is, and the messages that it can give up, because Postgres has them."""

from __future__ import annotations

import heapq
from typing import Any

from redis.asyncio import Redis

from wsserver.storage.redis.connection import RedisAddress, reading, script

_SCAN_COUNT = 500
# Trimmed at once, between two looks at the memory.
_TRIM_BATCH = 20
_LARGEST = 1000


async def fullness(redis: Redis) -> float:
    """The used part of `maxmemory`, 0 to 1; 0 without such a limit."""
    memory: dict[str, Any] = await redis.info("memory")
    limit = memory["maxmemory"]
    return float(memory["used_memory"] / limit) if limit else 0.0


class LogShedder:
    """Trims the largest logs to the messages that Postgres does not have, and the newest one.

    Resuming clients and history get the others from Postgres. All methods raise BrokerUnavailable.
    """

    def __init__(self, address: RedisAddress) -> None:
        self._redis = address.client(connections=1)
        self._trim = self._redis.register_script(script("archived_position.lua", "shed.lua", flags="allow-oom"))

    async def shed(self, target: float) -> int:
        """Trim logs until at most `target` of the memory is used. Returns the number of logs."""
        trimmed = 0
        async with reading():
            largest = await self._largest()
            for start in range(0, len(largest), _TRIM_BATCH):
                if await fullness(self._redis) <= target:
                    break
                batch = largest[start : start + _TRIM_BATCH]
                async with self._redis.pipeline(transaction=False) as pipeline:
                    for log in batch:
                        await self._trim(keys=[log.replace(b"}:log:", b"}:room:", 1), log], client=pipeline)
                    trimmed += sum(await pipeline.execute())
        return trimmed

    async def _largest(self) -> list[bytes]:
        """The keys of the largest logs, the largest first."""
        largest: list[tuple[int, bytes]] = []
        cursor = 0
        while True:
            scanned: Any = await self._redis.scan(cursor, match="ws:1:{*}:log:*", count=_SCAN_COUNT)
            cursor, logs = scanned
            async with self._redis.pipeline(transaction=False) as pipeline:
                for log in logs:
                    pipeline.memory_usage(log)
                sizes = await pipeline.execute()
            found = [(size, log) for size, log in zip(sizes, logs, strict=True) if size]
            largest = heapq.nlargest(_LARGEST, [*largest, *found])
            if not cursor:
                return [log for _size, log in largest]

    async def close(self) -> None:
        await self._redis.aclose()
