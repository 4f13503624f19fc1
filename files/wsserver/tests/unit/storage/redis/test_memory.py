# SPDX-License-Identifier: MIT
"""A Redis whose memory gets full."""

from __future__ import annotations

import asyncio

import pytest
from support.archive import archiving, publishing
from support.redis_server import RedisServer
from support.wait import until

import wsserver.archive.archiver
import wsserver.storage.redis.broker
from wsserver.archive.history import History
from wsserver.archive.messages import ArchivedMessages
from wsserver.errors import BrokerFull
from wsserver.protocol.types import Message, Position
from wsserver.storage.redis.connection import RedisAddress
from wsserver.storage.redis.memory import LogShedder

LIMIT = 16 * 2**20


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wsserver.archive.archiver, "_SHED_INTERVAL_S", 0.2)
    monkeypatch.setattr(wsserver.storage.redis.broker, "_CHECK_INTERVAL_S", 0.2)


def limit_memory(redis: RedisServer) -> None:
    redis.client().config_set("maxmemory", LIMIT)
    redis.client().config_set("maxmemory-policy", "noeviction")


async def test_the_fullness_is_measured(redis: RedisServer) -> None:
    async with publishing(redis) as broker:
        await asyncio.sleep(0.5)
        assert broker.fullness == 0, "there is no limit"
        redis.client().set("ballast", b"x" * (12 * 2**20))
        limit_memory(redis)
        await until(lambda: 0.75 < broker.fullness <= 1)
        redis.client().delete("ballast")
        await until(lambda: broker.fullness < 0.5)


async def test_archived_messages_leave_a_redis_that_gets_full(redis: RedisServer, dsn: str) -> None:
    limit_memory(redis)
    client = redis.client()
    async with publishing(redis) as broker, archiving(redis, dsn, broker) as worker:
        rooms = [f"r{n}" for n in range(30)]
        published: dict[str, list[Position]] = {room: [] for room in rooms}
        async with asyncio.timeout(120):
            for n in range(30):  # three times the memory
                for room in rooms:
                    while True:
                        try:
                            landed = await broker.publish(room, "u", str(n), b'"%b"' % (b"x" * 50_000))
                        except BrokerFull:
                            await asyncio.sleep(0.1)  # faster than the archiver
                            continue
                        published[room].append(landed.position)
                        break
            await until(lambda: broker.fullness < 0.75)
        assert client.memory_usage("ws:1:{0}:archive") is None or worker.archive.status.available
        past = History(broker, ArchivedMessages(worker.postgres))
        for room in rooms[:3]:
            assert await everything(past, room, published[room][0]) == published[room]
            assert await broker.head(room) == published[room][-1]


async def everything(past: History, room: str, first: Position) -> list[Position]:
    position = first._replace(seq=first.seq - 1)
    found: list[Message] = []
    while more := await past.after(room, position, 64):
        found += more
        position = more[-1].position
    return [message.position for message in found]


async def test_messages_that_postgres_does_not_have_stay(redis: RedisServer) -> None:
    async with publishing(redis) as broker:
        for n in range(20):
            await broker.publish("r", "u", str(n), b'"%b"' % (b"x" * 10_000))
        limit_memory(redis)
        shedder = LogShedder(RedisAddress(redis.url))
        assert await shedder.shed(0.0) == 0
        [log] = redis.client().keys("*:log:r")
        assert redis.client().xlen(log) == 20
        [room] = redis.client().keys("*:room:r")
        head = await broker.head("r")
        redis.client().hset(room, "archived", f"{head.epoch}-15")
        assert await shedder.shed(0.0) == 1
        assert redis.client().xlen(log) == 5
        redis.client().hset(room, "archived", f"{head.epoch}-20")
        assert await shedder.shed(0.0) == 1
        assert redis.client().xlen(log) == 1
        assert (await broker.publish("r", "u", "next", b"1")).position == head.next()
        await shedder.close()


async def test_a_redis_without_messages_to_give_up_is_not_searched_all_the_time(
    redis: RedisServer, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches = 0

    async def search(_shedder: LogShedder, _target: float) -> int:
        nonlocal searches
        searches += 1
        await asyncio.sleep(0.3)  # there are many keys
        return 0

    monkeypatch.setattr(LogShedder, "shed", search)
    redis.client().set("ballast", b"x" * (12 * 2**20))
    limit_memory(redis)
    async with publishing(redis) as broker, archiving(redis, dsn, broker):
        await until(lambda: searches)
        await asyncio.sleep(2)
    assert searches == 1
