# SPDX-License-Identifier: MIT
"""Messages that wait in Redis for Postgres: a stream for each shard, to which each publish appends
atomically.

One worker at a time moves a shard: the holder of the shard's lease. That worker reads the stream
from its head, in order. When it has moved a message, it has moved all messages before it. The field
`archived` of a room says so, and a room's log may be trimmed up to there. A consumer group would
spread one room over several workers, so that no worker could say this. The lease only avoids double
work: two workers at once, or a worker that died between the commit and `moved`, move some messages
twice, which changes nothing.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec

from wsserver.errors import BrokerUnavailable
from wsserver.protocol.types import Message, Position
from wsserver.storage.redis.connection import RedisAddress, reading, script
from wsserver.storage.redis.envelope import decode
from wsserver.storage.redis.keys import SHARDS, LogLimits, RoomKeys, archive_stream, life

# Another worker takes over a dead worker's shards after this time.
_LEASE_MS = 10_000
# The number of shards of other workers to request at a time. So workers that start together share
# the shards.
_ASK_AT_ONCE = 4
_RELEASE_TIMEOUT_S = 1.0
# These scripts free memory, so Redis must run them when its memory is full.
_FREES_MEMORY = "allow-oom"


class Entry(NamedTuple):
    """`message` is None if this release cannot read it."""

    id: str
    message: Message | None


class Head(NamedTuple):
    """The oldest entries of one shard, the number of all its entries, and the age of the first in
    seconds.

    `process`: the run id of the Redis that has them; empty if that is not known.
    """

    entries: list[Entry]
    pending: int
    age_s: float
    process: str


class ArchiveStream:
    """The streams, as one worker moves them. All methods raise BrokerUnavailable."""

    def __init__(self, address: RedisAddress, log: LogLimits) -> None:
        self._redis = address.client(connections=1)
        self._log = log
        self._worker = secrets.token_hex(8)
        self._held: dict[int, int] = {}  # shard -> its entries at the last request
        self._others = random.sample(range(SHARDS), SHARDS)
        self._read = self._redis.register_script(script("archive_head.lua", flags=_FREES_MEMORY))
        self._moved = self._redis.register_script(script("archived_position.lua", "archived.lua", flags=_FREES_MEMORY))
        self._release = self._redis.register_script(script("archive_release.lua", flags=_FREES_MEMORY))

    async def heads(self, most_entries: int, most_bytes: int) -> dict[int, Head]:
        """The heads of the shards that this worker holds, in all at most about `most_entries` and
        `most_bytes`.

        Renews their leases, and takes a few free leases: call it every few seconds.
        """
        shards = [*self._held, *self._others[:_ASK_AT_ONCE]]
        busy = sum(pending > 0 for pending in self._held.values())
        async with reading(), self._redis.pipeline(transaction=False) as pipeline:
            for shard in shards:
                share = busy if self._held.get(shard) else SHARDS
                await self._read(
                    keys=[archive_stream(shard), _lease(shard), life(shard)],
                    args=[self._worker, _LEASE_MS, max(1, most_entries // share), max(1, most_bytes // share)],
                    client=pipeline,
                )
            replies = await pipeline.execute()
        heads = {shard: _head(*reply) for shard, reply in zip(shards, replies, strict=True) if reply is not None}
        self._others = [*self._others[_ASK_AT_ONCE:], *(shard for shard in shards if shard not in heads)]
        self._held = {shard: head.pending for shard, head in heads.items()}
        return heads

    async def moved(self, heads: dict[int, Head], refused: Collection[str]) -> None:
        """Remove these entries: Postgres has them.

        `refused` (ids) names those it refused, which are set aside.
        """
        async with reading(), self._redis.pipeline(transaction=False) as pipeline:
            for shard, head in heads.items():
                if not head.entries:
                    continue
                newest = _newest(entry.message for entry in head.entries)
                rooms = [RoomKeys(room) for room in newest]
                stream = archive_stream(shard)
                await self._moved(
                    keys=[stream, f"{stream}:refused", *(key for room in rooms for key in (room.hash, room.stream))],
                    args=[
                        *(_next_id(head.entries[-1].id), self._log.length, self._log.bytes),
                        *(f"{position.epoch}-{position.seq}" for position in newest.values()),
                        *(entry.id for entry in head.entries if entry.id in refused),
                    ],
                    client=pipeline,
                )
            await pipeline.execute()

    @property
    def leads(self) -> bool:
        """Whether this worker does what one worker of the fleet has to do: it has the first shard."""
        return 0 in self._held

    async def close(self) -> None:
        """Release the leases, so that other workers take the shards at once."""
        with suppress(BrokerUnavailable):
            async with reading(), asyncio.timeout(_RELEASE_TIMEOUT_S):
                for shard in self._held:
                    await self._release(keys=[_lease(shard)], args=[self._worker])
        await self._redis.aclose()


def _lease(shard: int) -> str:
    return f"{archive_stream(shard)}:lease"


def _head(pending: int, age_ms: int, entries: list[Any], process: bytes | None) -> Head:
    return Head([_entry(*entry) for entry in entries], pending, max(0, age_ms) / 1000, (process or b"").decode())


def _entry(id: bytes, fields: list[bytes]) -> Entry:
    names_and_values = dict(zip(fields[::2], fields[1::2], strict=True))
    try:
        message = decode(names_and_values[b"r"].decode(), names_and_values[b"m"])
    except (KeyError, UnicodeDecodeError, msgspec.MsgspecError):
        return Entry(id.decode(), None)
    return Entry(id.decode(), message)


def _newest(messages: Iterable[Message | None]) -> dict[str, Position]:
    """The position up to which each room was moved: the messages are in order."""
    return {message.room: message.position for message in messages if message is not None}


def _next_id(id: str) -> str:
    ms, _dash, number = id.partition("-")
    return f"{ms}-{int(number) + 1}"
