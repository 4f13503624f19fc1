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


def clean_restart(redis: RedisServer) -> None:
    redis.client().shutdown()
    redis.kill()  # its process has ended
    redis.start()


async def past_a_reset(client: Client, before: int, after: int) -> list[Any]:
    """The data of the messages before and after one reset."""
    data = await client.messages(before)
    reset = await client.event("reset")
    client.since = {"epoch": reset["epoch"], "seq": reset["seq"]}
    return data + await client.messages(after)


async def follow(client: Client, since: dict[str, Any], missed: int, after: int) -> list[Any]:
    assert (await client.join(since=since))["recovered"] is True
    return await past_a_reset(client, missed, after)


@pytest.mark.parametrize("how", ["restart", "switch"])
async def test_a_new_epoch_loses_nothing_for_a_client_that_was_gone(
    start: Start, redis: RedisServer, dsn: str, how: str
) -> None:
    """Redis restarts without a loss under `everysec`, or the operator switches to `always`."""
    redis.fsync = "everysec"
    clean_restart(redis)
    worker = await start(WS_POSTGRES_DSN=dsn, WS_ROOM_LOG_LENGTH="100").ready()
    away, carol, bob = [await worker.client(user) for user in ("alice", "carol", "bob")]
    await away.join()
    await carol.join()
    await publish(bob, range(3))
    assert await away.messages(3) == list(range(3))
    await away.connection.close()
    position = dict(away.since or {})
    await publish(bob, range(3, 500))
    await until_moved(redis)
    await publish(bob, range(500, 510))
    assert logged(redis) < 400
    assert await carol.messages(510) == list(range(510))
    assert carol.since is not None
    end = dict(carol.since)

    if how == "restart":
        clean_restart(redis)
        await worker.ready()
    else:
        redis.client().config_set("appendfsync", "always")
        await asyncio.sleep(2.5)  # the workers look every 2 s
    while True:
        await bob.publish(510, "510")
        event = await bob.next()
        if event["type"] == "ack":
            break
        assert event["code"] in {"unavailable", "outcome_unknown"}, event
    await publish(bob, range(511, 520))
    assert await past_a_reset(carol, 0, 10) == list(range(510, 520))
    assert await follow(await worker.client("alice"), position, 507, 10) == list(range(3, 520))
    assert await follow(await worker.client("alice"), end, 0, 10) == list(range(510, 520))
    assert (await worker.metrics())["ws_gaps_total"] == 0
