# SPDX-License-Identifier: MIT
"""Clients that come back after a long time, or after Redis was replaced: all that still exists
reaches them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from support.archive import until_moved
from support.postgres import Cluster
from support.redis_server import RedisServer
from support.worker import Client, Worker

from wsserver.storage.redis.keys import RoomKeys

Start = Callable[..., Worker]


async def publish(client: Client, numbers: range, room: str = "r") -> None:
    """Publish the numbers, each of which is its own id, and wait for the acks."""
    for number in numbers:
        await client.publish(number, str(number), room)
    assert await client.acks(len(numbers)) == list(map(str, numbers))


def logged(redis: RedisServer, room: str = "r") -> int:
    return int(redis.client().xlen(RoomKeys(room).stream))


async def test_a_client_that_was_gone_for_longer_than_the_log_misses_nothing(
    start: Start, redis: RedisServer, dsn: str, cluster: Cluster
) -> None:
    worker = await start(WS_POSTGRES_DSN=dsn, WS_ROOM_LOG_LENGTH="100").ready()
    alice, bob = await worker.client("alice"), await worker.client("bob")
    since = await alice.join()
    position = {"epoch": since["epoch"], "seq": since["seq"]}
    await alice.connection.close()
    await publish(bob, range(1300))
    await until_moved(redis)
    await publish(bob, range(1300, 1310))
    assert logged(redis) < 400
    alice = await worker.client("alice")
    assert (await alice.join(since=position))["recovered"] is True
    assert await alice.messages(1310) == list(range(1310))

    # While Postgres is unavailable, such a client waits, and other clients are served.
    cluster.stop()
    try:
        late, other = await worker.client("late"), await worker.client("other")
        joined = await late.join(since=position)
        assert (joined["recovered"], joined["seq"]) == (True, position["seq"])
        await other.join()
        await publish(bob, range(1310, 1320))
        assert await other.messages(10) == list(range(1310, 1320))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(late.connection.recv(), 0.5)
        assert (await worker.metrics())["ws_archive_waits_total"] > 0
    finally:
        cluster.start()
    assert await late.messages(1320) == list(range(1320))
    assert (await worker.metrics())["ws_gaps_total"] == 0


async def test_a_client_that_reads_slowly_is_fed_from_postgres(start: Start, redis: RedisServer, dsn: str) -> None:
    worker = await start(WS_POSTGRES_DSN=dsn, WS_ROOM_LOG_LENGTH="100", WS_SLOW_CLIENT_S="60").ready()
    options: dict[str, Any] = {"max_queue": 1}
    alice, bob = await worker.client("alice", **options), await worker.client("bob")
    await alice.join()
    padding = "x" * 20_000
    for number in range(1000):
        await bob.publish([number, padding], str(number))
        if number % 100 == 99:
            await bob.acks(100)
    await until_moved(redis)
    await publish(bob, range(1000, 1010))
    assert logged(redis) < 400
    assert [each if isinstance(each, int) else each[0] for each in await alice.messages(1010)] == list(range(1010))
    assert (await worker.metrics())["ws_message_drops_total"] > 0
