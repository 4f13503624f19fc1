# SPDX-License-Identifier: MIT
"""The archiver, with a real Redis and a real Postgres."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs
from support.archive import Archiving, archiving, pending, publishing, rows, until_moved
from support.postgres import Cluster
from support.redis_server import RedisServer
from support.wait import until

from wsserver.archive import archiver as archive
from wsserver.archive import postgres, retention, sessions
from wsserver.archive.archiver import NotArchived
from wsserver.errors import BrokerFull
from wsserver.protocol.types import Message, Position
from wsserver.storage.redis import archive_stream
from wsserver.storage.redis.broker import RedisBroker
from wsserver.storage.redis.keys import RoomKeys, shard_of
from wsserver.storage.redis.keys import archive_stream as stream_of
from wsserver.storage.redis.memory import LogShedder
from wsserver.telemetry import metrics

_START = Position(0, 0)


async def publish(broker: RedisBroker, room: str, count: int, first: int = 0) -> list[Position]:
    futures = [broker.publish(room, "u", str(n), b"%d" % n) for n in range(first, first + count)]
    return [(await future).position for future in futures]


async def logged(broker: RedisBroker, room: str) -> list[Message]:
    return await broker.read(room, _START, 1_000_000)


def archived(redis: RedisServer, room: str) -> Position | None:
    found = redis.client().hget(RoomKeys(room).hash, "archived")
    return None if found is None else Position(*map(int, found.split(b"-")))  # type: ignore[union-attr]


async def test_all_messages_arrive_as_they_were_published(redis: RedisServer, dsn: str) -> None:
    values = [
        b'{"b": 1,  "a": [1.50, 1e400]}',
        '"żółć 🎈"'.encode(),
        rb'"\u0000\ud83d\ude00"',
        b"null",
        b"[" * 900 + b"]" * 900,
    ]
    rooms = [f"r{n}" for n in range(40)]
    async with publishing(redis) as broker, archiving(redis, dsn, broker):
        for n, data in enumerate(values * 20):
            await asyncio.gather(*(broker.publish(room, "ünï", str(n), data) for room in rooms))
        await until_moved(redis)
        for room in rooms:
            assert await rows(dsn, room) == await logged(broker, room)
        assert len(await rows(dsn, "r0")) == 100
        await until(lambda: archived(redis, "r39") is not None)
        assert archived(redis, "r0") == (await logged(broker, "r0"))[-1].position


async def test_a_log_keeps_what_postgres_does_not_have(redis: RedisServer, dsn: str) -> None:
    async with publishing(redis, log_length=10) as broker:
        await publish(broker, "r", 3000)
        await publish(broker, "quiet", 5)
        assert len(await logged(broker, "r")) == 3000
        async with archiving(redis, dsn, broker, log_length=10):
            await until_moved(redis)
        assert len(await rows(dsn, "r")) == 3000
        assert 10 <= len(await logged(broker, "r")) <= 200, "trimming did not resume"
        assert len(await logged(broker, "quiet")) == 5

        # No worker moves messages any more.
        await publish(broker, "r", 1000, first=3000)
        kept = [message.position for message in await logged(broker, "r")]
        assert {message.position for message in await rows(dsn, "r")}.isdisjoint(kept[-1000:])
        assert len(kept) >= 1000
        assert [position.seq for position in kept[-1000:]] == list(range(3001, 4001))


async def test_nothing_is_trimmed_across_epochs(redis: RedisServer, dsn: str) -> None:
    async with publishing(redis, log_length=10) as broker:
        async with archiving(redis, dsn, broker, log_length=10):
            [*_, last] = await publish(broker, "r", 50)
            await until_moved(redis)
        await publish(broker, "r", 300, first=50)
        await broker.renew("r", Position(last.epoch, 1000))
        await publish(broker, "r", 400, first=350)
        kept = [message.position for message in await logged(broker, "r")]
        assert len(kept) >= 700
        assert len({position.epoch for position in kept}) == 2
        async with archiving(redis, dsn, broker, log_length=10):
            await until_moved(redis)
        assert len(await rows(dsn, "r")) == 750
        assert 10 <= len(await logged(broker, "r")) <= 200


async def test_an_outage_of_postgres_under_load(redis: RedisServer, cluster: Cluster, dsn: str) -> None:
    rooms = ["a", "b", "c", "d"]
    landed: dict[str, list[Position]] = {room: [] for room in rooms}
    stop = asyncio.Event()

    async def load(broker: RedisBroker, room: str) -> None:
        n = 0
        while not stop.is_set():
            landed[room] += await publish(broker, room, 20, first=n)
            n += 20
            await asyncio.sleep(0.01)

    with capture_logs() as log:
        async with publishing(redis, log_length=50) as broker, archiving(redis, dsn, broker, log_length=50) as worker:
            loads = [asyncio.create_task(load(broker, room)) for room in rooms]
            await until(lambda: all(archived(redis, room) for room in rooms))
            cluster.stop()
            try:
                await until(lambda: not worker.postgres.available)
                assert metrics.ARCHIVE_AVAILABLE.collect()[0].samples[0].value == 0
                goal = {room: len(landed[room]) + 500 for room in rooms}
                await until(lambda: all(len(landed[room]) > goal[room] for room in rooms))
                held = {room: [m.position for m in await logged(broker, room)] for room in rooms}
                waiting = {room: archived(redis, room) for room in rooms}
            finally:
                await asyncio.to_thread(cluster.start)
            for room in rooms:
                missing = [position for position in landed[room] if position > (waiting[room] or _START)]
                assert len(missing) >= 500
                assert held[room][-1] >= missing[500]
                assert set(missing) & set(held[room]) == {p for p in missing if p <= held[room][-1]}
            await until(lambda: worker.postgres.available)
            stop.set()
            await asyncio.gather(*loads)
            await until_moved(redis)
            for room in rooms:
                assert [message.position for message in await rows(dsn, room)] == landed[room]
                await publish(broker, room, 1, first=1_000_000)
                assert 50 <= len(await logged(broker, room)) <= 300, "trimming did not resume"
    events = [line["event"] for line in log if line["event"].startswith(("postgres", "archive"))]
    assert events == ["postgres_unavailable", "postgres_available"], "one line for each change, not for each try"


async def test_a_postgres_that_hangs_is_noticed(
    redis: RedisServer, cluster: Cluster, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "STATEMENT_TIMEOUT_S", 2.0)
    monkeypatch.setattr(archive, "_CHECK_INTERVAL_S", 0.5)
    async with publishing(redis) as broker, archiving(redis, dsn, broker) as worker:
        await publish(broker, "r", 1)
        await until_moved(redis)
        cluster.signal(signal.SIGSTOP)
        try:
            await until(lambda: not worker.postgres.available)  # without any traffic
            [position] = await publish(broker, "r", 1, first=1)
            started = time.monotonic()
            with pytest.raises(NotArchived):
                await worker.archive.store("r", position)
            assert time.monotonic() - started < 1, "it was known"
        finally:
            cluster.signal(signal.SIGCONT)
        await until_moved(redis)
        assert len(await rows(dsn, "r")) == 2


@pytest.mark.parametrize("interrupted", ["heads", "moved"])
async def test_a_cancellation_left_behind_does_not_end_the_archiver(
    redis: RedisServer, dsn: str, monkeypatch: pytest.MonkeyPatch, interrupted: str
) -> None:
    """A timeout of the client library may leave it behind."""
    happened = asyncio.Event()

    async def cancelled(*_arguments: object) -> None:
        happened.set()
        raise asyncio.CancelledError

    async with publishing(redis) as broker, archiving(redis, dsn, broker) as worker:
        with monkeypatch.context() as patched:
            patched.setattr(worker.stream, interrupted, cancelled)
            await publish(broker, "r", 5)
            await asyncio.wait_for(happened.wait(), 20)
        await until_moved(redis)
        assert len(await rows(dsn, "r")) == 5


async def test_a_cancellation_left_behind_ends_no_other_work_of_the_archiver(
    redis: RedisServer, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Counter[str]()

    def interrupted(name: str) -> Callable[..., Coroutine[Any, Any, None]]:
        async def call(*_arguments: object) -> None:
            calls[name] += 1
            raise asyncio.CancelledError

        return call

    monkeypatch.setattr(archive, "_SHED_INTERVAL_S", 0.01)
    monkeypatch.setattr(retention, "_INTERVAL_S", 0.01)
    monkeypatch.setattr(retention, "delete_old", interrupted("delete"))
    monkeypatch.setattr(LogShedder, "shed", interrupted("shed"))
    async with publishing(redis) as broker, archiving(redis, dsn, broker, days=1) as worker:
        monkeypatch.setattr(broker, "fullness", 0.99)
        monkeypatch.setattr(archive, "_SHED_ABOVE", -1)
        await until(lambda: min(calls["delete"], calls["shed"]) > 1)
        [position] = await publish(broker, "r", 1)
        with monkeypatch.context() as patched:
            patched.setattr(worker.archive, "_store", interrupted("store"))
            with pytest.raises(NotArchived):
                await worker.archive.store("r", position)
        await worker.archive.store("r", position)


async def test_an_outage_of_redis(redis: RedisServer, dsn: str) -> None:
    async with publishing(redis) as broker, archiving(redis, dsn, broker) as worker:
        await publish(broker, "r", 100)
        redis.kill()
        await until(lambda: not broker.available)
        await asyncio.sleep(1)
        redis.start()
        await until(lambda: broker.available)
        [last] = await publish(broker, "r", 1, first=100)
        await worker.archive.store("r", last)
        rooms = [f"r{n}" for n in range(64)]  # of all shards
        await asyncio.gather(*(publish(broker, room, 1) for room in rooms))
        await until_moved(redis)
        assert len(await rows(dsn, "r")) == 101
        for room in rooms:
            assert len(await rows(dsn, room)) == 1


async def test_a_worker_dies_between_the_commit_and_the_trimming(
    redis: RedisServer, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with publishing(redis, log_length=10) as broker:
        await publish(broker, "r", 500)
        worker = Archiving(redis, dsn, broker, log_length=10)
        committed = asyncio.Event()

        async def hang(*_arguments: object) -> None:
            committed.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(worker.stream, "moved", hang)
        await asyncio.wait_for(committed.wait(), 20)
        await worker.stop()
        there = len(await rows(dsn, "r"))
        assert there > 0
        assert pending(redis) == 500
        assert len(await logged(broker, "r")) == 500
        async with archiving(redis, dsn, broker, log_length=10):
            await until_moved(redis)
        assert await broker.head("r") == archived(redis, "r")
        assert [message.position.seq for message in await rows(dsn, "r")] == list(range(1, 501))


async def test_two_workers_share_the_shards_and_one_takes_over(
    redis: RedisServer, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_stream, "_LEASE_MS", 2000)
    client = redis.client()

    def holders() -> list[bytes | None]:
        return [client.get(f"{stream_of(shard)}:lease") for shard in range(16)]  # type: ignore[misc]

    async with publishing(redis) as broker:
        dying = Archiving(redis, dsn, broker)
        async with archiving(redis, dsn, broker):
            await until(lambda: None not in holders())
            assert len(set(holders())) == 2, "one took all"

            async def release_nothing() -> None:
                pass

            monkeypatch.setattr(dying.stream, "close", release_nothing)
            await dying.stop()
            rooms = [f"r{n}" for n in range(64)]
            await asyncio.gather(*(publish(broker, room, 10) for room in rooms))
            await until_moved(redis)
            assert len(set(holders())) == 1
            for room in rooms:
                assert await rows(dsn, room) == await logged(broker, room)
        assert set(holders()) == {None}, "a worker that stops leaves its shards to the others at once"


async def test_two_workers_that_move_the_same_shards_do_no_harm(
    redis: RedisServer, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_stream, "_LEASE_MS", 1)
    async with publishing(redis, log_length=10) as broker:
        async with (
            archiving(redis, dsn, broker, log_length=10),
            archiving(redis, dsn, broker, log_length=10),
            archiving(redis, dsn, broker, log_length=10),
        ):
            landed = []
            for n in range(100):
                landed += await publish(broker, "r", 50, first=n * 50)
            await until_moved(redis)
        assert [message.position for message in await rows(dsn, "r")] == landed
        assert archived(redis, "r") == landed[-1]


async def test_a_full_redis_refuses_and_loses_nothing_and_is_emptied(
    redis: RedisServer, cluster: Cluster, dsn: str
) -> None:
    acknowledged: list[Position] = []
    data = b'"' + b"x" * 10_000 + b'"'
    client = redis.client()
    async with publishing(redis, log_length=10) as broker:
        client.config_set("maxmemory", client.info("memory")["used_memory"] + 8 * 2**20)
        cluster.stop()
        try:
            with pytest.raises(BrokerFull):  # noqa: PT012 - it is the last of many that is refused
                while True:
                    acknowledged.append((await broker.publish("r", "u", str(len(acknowledged)), data)).position)
            assert len(acknowledged) > 100
        finally:
            cluster.start()
        # A worker that starts only now: scripts that free memory must not need memory.
        async with archiving(redis, dsn, broker, log_length=10):
            await until_moved(redis)
            acknowledged.append((await broker.publish("r", "u", "after", data)).position)
            await until_moved(redis)
        assert [message.position for message in await rows(dsn, "r")] == acknowledged
        assert len(await logged(broker, "r")) <= 200


async def test_messages_that_postgres_refuses_for_good_are_set_aside(redis: RedisServer, dsn: str) -> None:
    bad = [b"no json", b'"\xff"', b"[" * 50_000 + b"]" * 50_000, b'"\\ud800 \x01"']
    refused_before = metrics.ARCHIVE_REFUSED._value.get()
    stream = stream_of(shard_of("r"))
    with capture_logs() as log:
        async with publishing(redis) as broker:
            await publish(broker, "r", 300)
            await asyncio.gather(*(broker.publish("r", "u", f"bad{n}", data) for n, data in enumerate(bad)))
            await broker.publish("r", "nul\0", "nul", b"1")
            redis.client().xadd(stream, {"of": "a release to come"})
            redis.client().xadd(stream, {"r": "r", "m": "[]\n1"})
            for odd in (f'"epoch":{2**70},"ts":1', '"epoch":1,"ts":1e300', '"epoch":-1,"ts":-1e300'):
                redis.client().xadd(stream, {"r": "odd", "m": '{"seq":1,"from":"u",' + odd + "}\n1"})
            await publish(broker, "r", 300, first=300)
            async with archiving(redis, dsn, broker):
                await until_moved(redis)
                assert archived(redis, "r") == await broker.head("r")
    assert [message.data for message in await rows(dsn, "r")] == [b"%d" % n for n in range(600)]
    aside: list[Any] = redis.client().xrange(f"{stream}:refused")  # type: ignore[assignment]
    assert [fields.get(b"m", b"").partition(b"\n")[2] for _id, fields in aside] == [*bad, b"1", b"", *[b"1"] * 4]
    assert metrics.ARCHIVE_REFUSED._value.get() - refused_before == 10
    told = [line for line in log if line["event"] == "archive_refused"]
    assert [line["seq"] for line in told] == [301, 302, 303, 304, 305, 1, 1, 1]
    assert [line["event"] for line in log].count("archive_entry_unreadable") == 2
    assert "no json" not in str(log)


async def test_the_refused_are_bounded(redis: RedisServer, dsn: str) -> None:
    async with publishing(redis) as broker, archiving(redis, dsn, broker):
        await asyncio.gather(*(broker.publish("r", "u", str(n), b"-") for n in range(250)))
        await until_moved(redis)
    assert redis.client().xlen(f"{stream_of(shard_of('r'))}:refused") == 100


async def test_without_a_schema_nothing_is_lost(redis: RedisServer, dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute("ALTER TABLE messages RENAME TO later")
    async with publishing(redis) as broker, archiving(redis, dsn, broker) as worker:
        await publish(broker, "r", 10)
        await until(lambda: not worker.postgres.available)
        assert pending(redis) == 10
        await connection.execute("ALTER TABLE later RENAME TO messages")
        await until_moved(redis)
    assert await connection.fetchval("SELECT count(*) FROM messages") == 10
    await connection.close()


# Durable rooms.


async def test_storing_waits_for_postgres(redis: RedisServer, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with publishing(redis) as broker, archiving(redis, dsn, broker) as worker:
        await until(lambda: worker.postgres._pool is not None)

        async def never(*_arguments: object) -> bool:
            return False

        monkeypatch.setattr(worker.archive, "_move_some", never)
        taken: list[int] = []
        store = worker.archive._store

        async def counted(batch: list[Any]) -> Any:
            taken.append(len(batch))
            return await store(batch)

        monkeypatch.setattr(worker.archive, "_store", counted)
        await asyncio.sleep(1.2)
        landed = await publish(broker, "r", 500)
        connection = await asyncpg.connect(dsn)
        lock = connection.transaction()
        await lock.start()
        await connection.execute("LOCK TABLE messages IN SHARE MODE")
        storing = [asyncio.create_task(worker.archive.store("r", position)) for position in landed]
        await until(lambda: sum(taken) + len(worker.archive._waiting) == len(landed))
        done, _ = await asyncio.wait(storing, timeout=0.5)
        assert not done
        await lock.rollback()
        await asyncio.wait_for(asyncio.gather(*storing), 20)
        assert [message.position for message in await rows(dsn, "r")] == landed
        transactions = await connection.fetchval("SELECT count(DISTINCT xmin::text) FROM messages")
        assert transactions <= 10, "each publish made its own"
        await connection.close()


async def test_an_archived_message_counts_as_stored(redis: RedisServer, dsn: str) -> None:
    async with publishing(redis, log_length=10) as broker, archiving(redis, dsn, broker, log_length=10) as worker:
        landed = await publish(broker, "r", 500)
        await until_moved(redis)
        assert (await logged(broker, "r"))[0].position > landed[0], "still in the log: this test tests nothing"
        await asyncio.wait_for(worker.archive.store("r", landed[0]), 20)
        # In no log: Redis lost its tail, or Postgres refused the message.
        lost = Position(landed[-1].epoch, landed[-1].seq + 1)
        with pytest.raises(NotArchived):
            await asyncio.wait_for(worker.archive.store("r", lost), 20)
        unwanted = (await broker.publish("r", "u", "unwanted", b"-")).position
        with pytest.raises(NotArchived):
            await asyncio.wait_for(worker.archive.store("r", unwanted), 20)


async def test_the_repeat_of_a_publish_is_acknowledged_when_postgres_is_back(
    redis: RedisServer, cluster: Cluster, dsn: str
) -> None:
    async with publishing(redis) as broker, archiving(redis, dsn, broker) as worker:
        await until(lambda: worker.postgres._pool is not None)
        cluster.stop()
        try:
            position = (await broker.publish("r", "u", "1", b"1")).position
            with pytest.raises(NotArchived, match="repeat with the same id") as refusal:
                await asyncio.wait_for(worker.archive.store("r", position), 20)
            assert refusal.value.code == "not_archived"
            await until(lambda: not worker.postgres.available)
            started = time.monotonic()
            for _again in range(100):
                with pytest.raises(NotArchived):
                    await worker.archive.store("r", position)
            assert time.monotonic() - started < 1
        finally:
            cluster.start()
        await until(lambda: worker.postgres.available)
        again = await broker.publish("r", "u", "1", b"1")
        assert again == (position, True)
        await asyncio.wait_for(worker.archive.store("r", again.position), 20)
        await until_moved(redis)
        assert [message.position for message in await rows(dsn, "r")] == [position]


# Retention.


async def test_old_messages_are_deleted(redis: RedisServer, dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        "INSERT INTO messages SELECT 'r', 1, n, 'u', now() - make_interval(days => n % 10, mins => 1), '1'"
        " FROM generate_series(0, 9999) AS n"
    )
    access = postgres.Postgres(dsn)
    await connection.execute("SELECT pg_advisory_lock($1)", retention._LOCK)
    assert await retention.delete_old(access, 7) == 0, "another worker is about it"
    await connection.execute("SELECT pg_advisory_unlock($1)", retention._LOCK)
    both = await asyncio.gather(retention.delete_old(access, 7), retention.delete_old(access, 7))
    assert sorted(both) == [0, 3000]
    assert await connection.fetchval("SELECT count(*) FROM messages WHERE ts < now() - interval '7 days'") == 0
    assert await connection.fetchval("SELECT count(*) FROM messages") == 7000
    await access.close()
    await connection.close()


async def test_the_archive_keeps_to_its_retention(
    redis: RedisServer, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_INTERVAL_S", 0.2)
    connection = await asyncpg.connect(dsn)
    await connection.execute("INSERT INTO messages VALUES ('r', 1, 1, 'u', now() - interval '2 days', '1')")
    await connection.execute("INSERT INTO messages VALUES ('r', 1, 2, 'u', now(), '1')")
    async with publishing(redis) as broker, archiving(redis, dsn, broker, days=1):
        async with asyncio.timeout(20):
            while len(await rows(dsn, "r")) == 2:  # noqa: ASYNC110 - Postgres raises no asyncio.Event
                await asyncio.sleep(0.05)
        assert [message.position.seq for message in await rows(dsn, "r")] == [2]
    await connection.close()
