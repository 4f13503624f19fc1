# SPDX-License-Identifier: MIT
"""Clients that come back after a long time, or after Redis was replaced: all that still exists
reaches them.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import Callable
from typing import Any

import pytest
from support.archive import rows, until_moved
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


async def publish_again(client: Client, numbers: range) -> None:
    """As `publish`, once the worker has noticed that Redis was replaced."""
    while True:
        await client.publish(numbers[0], str(numbers[0]))
        event = await client.next()
        if event["type"] == "ack":
            break
        assert event["code"] in {"unavailable", "outcome_unknown"}, event
    await publish(client, numbers[1:])


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
    redis.stop()
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
    await publish_again(bob, range(510, 520))
    assert await past_a_reset(carol, 0, 10) == list(range(510, 520))
    assert await follow(await worker.client("alice"), position, 507, 10) == list(range(3, 520))
    assert await follow(await worker.client("alice"), end, 0, 10) == list(range(510, 520))
    assert (await worker.metrics())["ws_gaps_total"] == 0


@pytest.mark.parametrize("workers", ["stay", "restart"])
async def test_an_older_copy_of_redis_begins_new_epochs(
    start: Start, redis: RedisServer, dsn: str, workers: str
) -> None:
    """The promise of what was acknowledged holds, and nothing published later takes its place."""
    worker = await start(WS_POSTGRES_DSN=dsn).ready()
    alice, carol, bob = [await worker.client(user) for user in ("alice", "carol", "bob")]
    joined = await alice.join()
    await publish(bob, range(1, 3))
    copy = redis.backup()
    await carol.join()
    await publish(bob, range(3, 6))
    assert await alice.messages(5) == [1, 2, 3, 4, 5]
    at_5 = dict(alice.since or {})
    at_2 = {**at_5, "seq": joined["seq"] + 2}
    await alice.connection.close()
    await until_moved(redis)
    if workers == "restart":
        worker.signal(signal.SIGKILL)
        worker.wait()
    redis.restore(copy)
    if workers == "restart":
        worker = await start(WS_POSTGRES_DSN=dsn).ready()
        bob = await worker.client("bob")
    await publish_again(bob, range(6, 10))
    if workers == "stay":
        assert await past_a_reset(carol, 3, 4) == list(range(3, 10))
        assert (await worker.metrics())["ws_broker_data_lost_total"] >= 1
    [told] = worker.log("broker_data_is_older")
    assert told["shards"]

    # A client that had all five gets what came after. No proof is left that there was no sixth.
    alice = await worker.client("alice")
    assert (await alice.join(since=at_5))["recovered"] is False
    assert await alice.messages(4) == [6, 7, 8, 9]
    # Postgres has what Redis lost, and gets what came after.
    assert await follow(await worker.client("dave"), at_2, 3, 4) == [3, 4, 5, 6, 7, 8, 9]
    await until_moved(redis)
    found = await rows(dsn, "r")
    assert [message.data for message in found] == [b"%d" % n for n in range(1, 10)]
    assert len({message.position.epoch for message in found}) == 2

    # Once is enough: another start begins no epoch.
    epoch = alice.since
    clean_restart(redis)
    await publish_again(bob, range(10, 12))
    assert await alice.messages(2) == [10, 11]
    assert alice.since is not None
    assert epoch is not None
    assert alice.since["epoch"] == epoch["epoch"]


@pytest.mark.parametrize("how", ["flushall", "empty"])
async def test_what_postgres_has_survives_the_loss_of_all_of_redis(
    start: Start, redis: RedisServer, dsn: str, how: str
) -> None:
    worker = await start(WS_POSTGRES_DSN=dsn).ready()
    carol, bob = await worker.client("carol"), await worker.client("bob")
    joined = await carol.join()
    await publish(bob, range(1, 6))
    assert await carol.messages(5) == [1, 2, 3, 4, 5]
    await until_moved(redis)
    if how == "flushall":
        redis.client().flushall()
    else:
        redis.kill()
        shutil.rmtree(redis.directory / "appendonlydir")
        redis.start()
    await publish_again(bob, range(6, 10))
    assert await past_a_reset(carol, 0, 4) == [6, 7, 8, 9]
    at_2 = {"epoch": joined["epoch"], "seq": joined["seq"] + 2}
    assert await follow(await worker.client("alice"), at_2, 3, 4) == [3, 4, 5, 6, 7, 8, 9]
    await until_moved(redis)
    assert [message.data for message in await rows(dsn, "r")] == [b"%d" % n for n in range(1, 10)]


@pytest.mark.parametrize("archive", [True, False])
async def test_a_lost_tail_begins_a_new_epoch(start: Start, redis: RedisServer, dsn: str, archive: bool) -> None:
    """The append only file lacks its end, as `redis-check-aof --fix` or a replica leaves it."""
    settings = {"WS_POSTGRES_DSN": dsn} if archive else {}
    one, two = await start(**settings).ready(), await start(**settings).ready()
    carol, bob = await one.client("carol"), await two.client("bob")
    await carol.join()
    await publish(bob, range(45))
    await carol.messages(45)
    at_45 = dict(carol.since or {})
    if archive:
        await until_moved(redis)
    size = redis.aof().stat().st_size
    await publish(bob, range(45, 50))
    assert await carol.messages(5) == list(range(45, 50))
    at_50 = dict(carol.since or {})
    if archive:
        await until_moved(redis)
    redis.cut(size)
    await publish_again(bob, range(50, 56))
    assert await past_a_reset(carol, 0, 6) == list(range(50, 56))
    for worker in (one, two):
        late = await worker.client("late")
        await late.join(since=at_50)
        reset = late.since != at_50
        assert await (late.messages(6) if reset else past_a_reset(late, 0, 6)) == list(range(50, 56))
    if archive:
        assert await follow(await two.client("later"), at_45, 5, 6) == list(range(45, 56))
