# SPDX-License-Identifier: MIT
"""The publisher and the archiver of a worker, without the worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from support.redis_server import RedisServer
from support.wait import until
from wsserver.archive.archiver import Archiver
from wsserver.archive.postgres import Postgres
from wsserver.protocol.types import Message, Position
from wsserver.rooms.broker import Broker, Delivered
from wsserver.storage.redis.archive_stream import ArchiveStream
from wsserver.storage.redis.broker import RedisBroker, Witness
from wsserver.storage.redis.connection import RedisAddress
from wsserver.storage.redis.keys import LogLimits
from wsserver.storage.redis.memory import LogShedder


class _NoListener:
    def on_message(self, message: Message) -> None:
        pass

    def on_member(self, room: str, user: str, joined: bool) -> None:
        pass

    def delivered(self) -> dict[str, Delivered]:
        return {}

    def on_available(self) -> None:
        pass


class NoWitness:
    async def newest(self, except_process: str) -> dict[int, str]:
        return {}


@asynccontextmanager
async def running(broker: Broker) -> AsyncIterator[None]:
    task = asyncio.create_task(broker.run(_NoListener(), lambda _payload: None))
    try:
        await until(lambda: broker.available)
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def publishing(
    redis: RedisServer, log_length: int = 1000, witness: Witness | None = None
) -> AsyncIterator[RedisBroker]:
    broker = RedisBroker(RedisAddress(redis.url), LogLimits(log_length, 2**30, 3600), witness or NoWitness())
    async with running(broker):
        yield broker


class Archiving:
    """Runs one worker's archiver."""

    def __init__(
        self, redis: RedisServer, dsn: str, broker: RedisBroker, log_length: int = 1000, days: int = 0
    ) -> None:
        self.postgres = Postgres(dsn)
        self.stream = ArchiveStream(RedisAddress(redis.url), LogLimits(log_length, 2**30, 3600))
        self.archive = Archiver(self.postgres, self.stream, LogShedder(RedisAddress(redis.url)), broker, days)
        self._running = asyncio.create_task(self.archive.run())

    async def stop(self) -> None:
        assert not self._running.done(), self._running
        self._running.cancel()
        await asyncio.wait([self._running], timeout=20)
        assert self._running.done(), "the archiver still runs"


@asynccontextmanager
async def archiving(
    redis: RedisServer, dsn: str, broker: RedisBroker, log_length: int = 1000, days: int = 0
) -> AsyncIterator[Archiving]:
    worker = Archiving(redis, dsn, broker, log_length, days)
    try:
        yield worker
    finally:
        await worker.stop()


async def rows(dsn: str, room: str) -> list[Message]:
    """The messages of a room in Postgres, in order."""
    connection = await asyncpg.connect(dsn)
    found = await connection.fetch(
        "SELECT epoch, seq, sender, extract(epoch FROM ts)::float8, data FROM messages WHERE room = $1"
        " ORDER BY epoch, seq",
        room,
    )
    await connection.close()
    return [Message(room, Position(epoch, seq), user, ts, data.encode()) for epoch, seq, user, ts, data in found]


def pending(redis: RedisServer) -> int:
    """Entries of all archive streams."""
    client = redis.client()
    return sum(int(client.xlen(f"ws:1:{{{shard}}}:archive")) for shard in range(16))


async def until_moved(redis: RedisServer) -> None:
    await until(lambda: pending(redis) == 0)
