# SPDX-License-Identifier: MIT
"""Pages of a room's past, from a real log and a real Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from unittest.mock import patch
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.archive import publishing, running
from support.postgres import Cluster
from support.redis_server import RedisServer
from support.wait import until

import wsserver.archive.history
import wsserver.archive.messages
from wsserver.archive.history import History
from wsserver.archive.messages import ArchivedMessages
from wsserver.archive.postgres import Postgres
from wsserver.errors import ArchiveBusy, BrokerUnavailable
from wsserver.protocol.types import Message, Position
from wsserver.rooms.broker import READ_BYTES
from wsserver.storage.memory.broker import MemoryBroker
from wsserver.storage.redis.broker import RedisBroker
from wsserver.storage.redis.keys import RoomKeys


@pytest.fixture
async def broker(redis: RedisServer) -> AsyncIterator[RedisBroker]:
    async with publishing(redis) as broker:
        yield broker


def message(room: str, position: Position) -> Message:
    """A message; the lengths differ."""
    data = b'{"at": %s"%d-%d"}' % (b" " * (position.seq * 7 % 50), *position)
    return Message(room, position, "ünï", position.epoch + position.seq / 1000, data)


def write_log(redis: RedisServer, room: str, messages: list[Message], head: Position | None) -> None:
    keys = RoomKeys(room)
    pipeline = redis.client().pipeline(transaction=False)
    for each in messages:
        epoch, seq = each.position
        header = f'{{"epoch":{epoch},"seq":{seq},"from":"{each.user}","ts":{each.ts}}}\n'
        pipeline.xadd(keys.stream, {"m": header.encode() + each.data}, id=f"{epoch}-{seq}")
    if head is not None:
        pipeline.hset(keys.hash, mapping={"epoch": head.epoch, "seq": head.seq, "life": "aof"})
    pipeline.execute()


async def write_archive(connection: asyncpg.Connection, messages: list[Message]) -> None:
    await connection.executemany(
        "INSERT INTO messages VALUES ($1, $2, $3, $4, to_timestamp($5), $6)",
        [(each.room, *each.position, each.user, each.ts, each.data.decode()) for each in messages],
    )


def full(page: list[Message], limit: int) -> bool:
    return len(page) == limit or sum(len(each.data) for each in page) >= wsserver.archive.history.READ_BYTES


async def backwards(history: History, room: str, before: Position | None, limit: int) -> list[Message]:
    """All pages from `before` to the beginning."""
    found: list[Message] = []
    more = True
    while more:
        page, more = await history.page(room, before, None, limit)
        assert full(page, limit) or not more
        assert page or not found
        found = page + found
        before = found[0].position if found else before
    return found


async def forwards(history: History, room: str, since: Position, limit: int) -> list[Message]:
    """All pages from `since` to the end."""
    found: list[Message] = []
    more = True
    while more:
        page, more = await history.page(room, None, since, limit)
        assert full(page, limit) or not more
        assert page or not found
        found += page
        since = found[-1].position if found else since
    return found


def first(messages: list[Message], limit: int, most_bytes: int) -> tuple[list[Message], bool]:
    """The page at the start of the messages, and whether more follow."""
    page: list[Message] = []
    for each in messages:
        if len(page) == limit or sum(len(paged.data) for paged in page) >= most_bytes:
            return page, True
        page.append(each)
    return page, False


# Epochs of a room: how many messages each had, and how many of the last ones Redis lost.
_LIVES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2)), min_size=0, max_size=4)


@settings(max_examples=120)
# Only the archive has the last message: Redis lost it.
@example(lives=[(3, 1), (0, 0)], cut=0, moved=0, limit=1, most_bytes=1, expired=False)
@given(
    lives=_LIVES,
    cut=st.integers(0, 40),
    moved=st.integers(0, 40),
    limit=st.integers(1, 6),
    most_bytes=st.sampled_from([1, 60, 120, READ_BYTES]),
    expired=st.booleans(),
)
async def test_pages_have_all_messages_in_both_directions(
    redis: RedisServer,
    broker: RedisBroker,
    dsn: str,
    lives: list[tuple[int, int]],
    cut: int,
    moved: int,
    limit: int,
    most_bytes: int,
    expired: bool,
) -> None:
    room = uuid4().hex
    every = [message(room, Position(1000 + life, seq + 1)) for life, (n, _) in enumerate(lives) for seq in range(n)]
    # Redis may lack the end of an older epoch. Otherwise the log loses only archived messages.
    lost = {
        Position(1000 + life, n - gone) for life, (n, most) in enumerate(lives[:-1]) for gone in range(min(most, n))
    }
    cut, moved = min(cut, len(every)), min(moved, len(every))
    cut, moved = (len(every), len(every)) if expired else (min(cut, moved), moved)
    log = [each for each in every[cut:] if each.position not in lost]
    archived = [each for n, each in enumerate(every) if n < moved or each.position in lost]
    head = None if expired or not every else every[-1].position
    write_log(redis, room, log, head)
    connection = await asyncpg.connect(dsn)
    await write_archive(connection, archived)
    await connection.close()

    postgres = Postgres(dsn)
    history = History(broker, ArchivedMessages(postgres))
    with (
        patch("wsserver.archive.history.READ_BYTES", most_bytes),
        patch("wsserver.archive.messages.READ_BYTES", most_bytes),
        patch("wsserver.storage.redis.broker.READ_BYTES", most_bytes),
    ):
        assert await backwards(history, room, None, limit) == every
        assert await forwards(history, room, Position(0, 0), limit) == every
        for n, each in enumerate(every):
            for page_limit in (1, limit):
                page, more = first(every[:n][::-1], page_limit, most_bytes)
                assert await history.page(room, each.position, None, page_limit) == (page[::-1], more)
                found = await history.page(room, None, each.position, page_limit)
                assert found == first(every[n + 1 :], page_limit, most_bytes)
    await postgres.close()


async def test_a_page_takes_little_memory_however_large_the_messages_are(broker: RedisBroker) -> None:
    memory = MemoryBroker(100)
    async with running(memory):
        for each in (broker, memory):
            publishes = [each.publish("r", "u", str(n), b'"%s"' % (b"x" * 60_000)) for n in range(100)]
            landed = [published.position for published in await asyncio.gather(*publishes)]
            history = History(each, None)
            page, more = await history.page("r", None, None, 100)
            assert more
            assert READ_BYTES <= sum(len(message.data) for message in page) < READ_BYTES + 64 * 1024
            assert [message.position for message in await backwards(history, "r", None, 100)] == landed
            assert [message.position for message in await forwards(history, "r", Position(0, 0), 100)] == landed


@pytest.mark.parametrize("length", [0, 1, 5, 6, 10, 11])
async def test_without_postgres_pages_come_from_the_log(length: int) -> None:
    broker = MemoryBroker(log_length=10)
    async with running(broker):
        landed = [(await broker.publish("r", "u", str(n), b"1")).position for n in range(length)]
        history = History(broker, None)
        kept = landed[-10:]
        assert [each.position for each in await backwards(history, "r", None, 5)] == kept
        assert [each.position for each in await forwards(history, "r", Position(0, 0), 5)] == kept
        if landed:
            assert await history.page("r", None, landed[-1], 5) == ([], False)


async def test_while_postgres_is_unavailable_pages_come_from_the_log(
    redis: RedisServer, cluster: Cluster, dsn: str
) -> None:
    old = [message("r", Position(1000, seq)) for seq in range(1, 51)]
    write_log(redis, "r", old[20:], old[-1].position)
    connection = await asyncpg.connect(dsn)
    await write_archive(connection, old)
    await connection.close()
    async with publishing(redis) as broker:
        postgres = Postgres(dsn)
        history = History(broker, ArchivedMessages(postgres))
        assert await history.page("r", old[25].position, None, 10) == (old[15:25], True)
        cluster.stop()
        try:
            assert await history.page("r", None, None, 10) == (old[40:], True)
            assert await history.page("r", None, old[30].position, 10) == (old[31:41], True)
            assert await history.page("r", None, old[45].position, 10) == (old[46:], False)
            assert await history.page("r", None, old[-1].position, 10) == ([], False)
            assert postgres.available, "no call needed it"
            assert await history.page("r", old[25].position, None, 10) == (old[20:25], True)
            for before, since in ((old[20].position, None), (old[10].position, None), (None, old[10].position)):
                with pytest.raises(BrokerUnavailable) as refusal:
                    await history.page("r", before, since, 10)
                assert refusal.value.code == "unavailable"
        finally:
            cluster.start()
        postgres.available = True  # as the archiver finds out
        assert await history.page("r", None, old[10].position, 10) == (old[11:21], True)
        await postgres.close()


async def test_a_log_that_is_trimmed_meanwhile_leaves_no_hole(redis: RedisServer, dsn: str) -> None:
    """The log is trimmed between reading it and reading Postgres."""
    every = [message("r", Position(1000, seq)) for seq in range(1, 41)]
    write_log(redis, "r", every[10:], every[-1].position)
    connection = await asyncpg.connect(dsn)
    await write_archive(connection, every[:10])
    async with publishing(redis) as broker:
        postgres = Postgres(dsn)
        read, read_before = broker.read, broker.read_before

        def then_moved(reading: Callable[..., object]) -> Callable[..., object]:
            async def read_and_move(*arguments: object) -> object:
                found = await reading(*arguments)  # type: ignore[misc]
                await write_archive(connection, every[10:20])
                redis.client().xtrim(RoomKeys("r").stream, minid="1000-21", approximate=False)
                return found

            return read_and_move

        broker.read_before = then_moved(read_before)  # type: ignore[method-assign, assignment]
        assert await History(broker, ArchivedMessages(postgres)).page("r", every[15].position, None, 10) == (
            every[5:15],
            True,
        )
        await connection.execute("DELETE FROM messages WHERE seq > 10")
        redis.client().delete(RoomKeys("r").stream)
        write_log(redis, "r", every[10:], every[-1].position)
        broker.read = then_moved(read)  # type: ignore[method-assign, assignment]
        assert await History(broker, ArchivedMessages(postgres)).page("r", None, every[5].position, 10) == (
            every[6:16],
            True,
        )
        await postgres.close()
    await connection.close()


async def test_while_redis_is_unavailable_there_is_no_page(redis: RedisServer, broker: RedisBroker) -> None:
    redis.kill()
    await until(lambda: not broker.available)
    with pytest.raises(BrokerUnavailable):
        await asyncio.wait_for(History(broker, None).page("r", None, None, 10), 0.5)


async def test_a_worker_remembers_that_the_archive_has_nothing_older(broker: RedisBroker, dsn: str) -> None:
    postgres = Postgres(dsn)
    archived = ArchivedMessages(postgres)
    asked: list[str] = []

    class Counted:
        async def after(self, room: str, position: Position, limit: int) -> list[Message]:
            return await archived.after(room, position, limit)

        async def before(self, room: str, position: Position | None, limit: int) -> list[Message]:
            asked.append(room)
            return await archived.before(room, position, limit)

    history = History(broker, Counted())
    await broker.head("r")
    for _ in range(3):
        assert await history.page("r", None, None, 10) == ([], False)
    assert asked == ["r"]
    published = [(await broker.publish("r", "u", str(n), b"1")).position for n in range(5)]
    for _ in range(3):
        page, more = await history.page("r", None, None, 10)
        assert [each.position for each in page] == published
        assert not more
        assert await history.page("r", published[0], None, 10) == ([], False)
    assert asked == ["r"]
    connection = await asyncpg.connect(dsn)
    older = message("old", Position(1, 1))
    await write_archive(connection, [older])
    await connection.close()
    for _ in range(2):
        assert (await history.page("old", None, None, 10))[0] == [older], "another room"
    await postgres.close()


async def test_a_busy_archive_is_not_an_outage(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wsserver.archive.messages, "_WAIT_S", 0.3)
    postgres = Postgres(dsn)
    archived = ArchivedMessages(postgres)
    locked = await asyncpg.connect(dsn)
    async with locked.transaction():
        await locked.execute("LOCK TABLE messages")
        reads = [asyncio.create_task(archived.after(f"r{n}", Position(0, 0), 10)) for n in range(20)]
        done, waiting = await asyncio.wait(reads, timeout=2)
        assert len(waiting) == 2, "these have a connection"
        errors = [task.exception() for task in done]
        assert all(isinstance(error, ArchiveBusy) for error in errors)
        assert postgres.available
        async with postgres.connection() as connection:
            assert await connection.fetchval("SELECT 1") == 1, "writers do not wait for readers"
    assert [await task for task in waiting] == [[], []]
    assert await archived.after("r", Position(0, 0), 10) == []
    await locked.close()
    await postgres.close()
