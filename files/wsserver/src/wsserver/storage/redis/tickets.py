# SPDX-License-Identifier: MIT
"""Tickets in Redis, where every worker finds them."""

from __future__ import annotations

import secrets
from hashlib import sha256
from typing import Any

from wsserver.storage.redis.connection import RedisAddress, reading, script
from wsserver.storage.redis.keys import prefix, shard_of

# How long the store knows who took a ticket: longer than a worker asks.
_TAKER_S = 15


class RedisTickets:
    """Keeps a digest of each ticket: a reader of Redis, of its disk or of a backup can spend no
    ticket.
    """

    def __init__(self, address: RedisAddress) -> None:
        self._redis = address.client(connections=4)
        # A full Redis still lets clients in.
        self._take = self._redis.register_script(script("take_ticket.lua", flags="allow-oom"))

    async def issue(self, grant: bytes, ttl_s: int) -> str:
        ticket = secrets.token_urlsafe(32)
        async with reading():
            await self._redis.set(_key(ticket), grant, ex=ttl_s)
        return ticket

    async def look_up(self, ticket: str) -> bytes | None:
        async with reading():
            grant: Any = await self._redis.get(_key(ticket))
        return None if grant is None else bytes(grant)

    async def take(self, ticket: str, taker: str) -> bool:
        key = _key(ticket)
        async with reading():
            return bool(await self._take([key, f"{key}:taker"], [taker, _TAKER_S]))

    async def close(self) -> None:
        await self._redis.aclose()


def _key(ticket: str) -> str:
    digest = sha256(ticket.encode()).hexdigest()
    return f"{prefix(shard_of(digest))}:ticket:{digest}"
