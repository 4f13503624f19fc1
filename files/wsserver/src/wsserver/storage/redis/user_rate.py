# SPDX-License-Identifier: MIT
"""A number of each user on each worker, such as a rate, in Redis, for two seconds.

See scripts/rates.lua.
"""

from __future__ import annotations

import secrets
from itertools import groupby

from wsserver.storage.redis.connection import RedisAddress, reading, script
from wsserver.storage.redis.keys import prefix, shard_of

_REPORT_MS = 2500
_CHUNK = 250


class RedisRates:
    """`kind`: the name of the number in keys; "rate" is the rate of publishes."""

    def __init__(self, address: RedisAddress, kind: str) -> None:
        self._kind = kind
        self._worker = secrets.token_hex(8)
        self._redis = address.client(connections=1)
        self._script = self._redis.register_script(script("rates.lua", flags="allow-oom"))

    async def exchange(self, rates: dict[str, float]) -> dict[str, float]:
        sums: dict[str, float] = {}
        for shard, group in groupby(sorted(rates, key=shard_of), key=shard_of):
            users = list(group)
            for start in range(0, len(users), _CHUNK):
                some = users[start : start + _CHUNK]
                keys = [f"{prefix(shard)}:{self._kind}:{user}" for user in some]
                arguments: list[str | int] = [self._worker, _REPORT_MS, *(f"{rates[user]:.3f}" for user in some)]
                async with reading():
                    replies = await self._script(keys=keys, args=arguments)
                sums.update(zip(some, map(float, replies), strict=True))
        return sums

    async def close(self) -> None:
        await self._redis.aclose()
