# SPDX-License-Identifier: MIT
"""Reads of Postgres by many members of a room at once."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from support.postgres import Cluster

from wsserver.archive import messages as messages_module
from wsserver.archive import sessions
from wsserver.archive.messages import ArchivedMessages
from wsserver.archive.postgres import Postgres
from wsserver.errors import ArchiveUnavailable
from wsserver.protocol.types import Position


@pytest.fixture
async def connection(dsn: str) -> asyncpg.Connection:
    connection = await asyncpg.connect(dsn)
    await insert(connection, *range(1, 11))
    yield connection
    await connection.close()


async def insert(connection: asyncpg.Connection, *seqs: int) -> None:
    rows = [("r", 1, seq, "u", float(seq), str(seq)) for seq in seqs]
    await connection.executemany("INSERT INTO messages VALUES ($1, $2, $3, $4, to_timestamp($5), $6)", rows)


async def test_members_that_ask_the_same_at_once_share_one_read(
    connection: asyncpg.Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres = Postgres(dsn)
    archived = ArchivedMessages(postgres)
    reads = 0
    working = postgres.connection

    def counted() -> object:
        nonlocal reads
        reads += 1
        return working()

    monkeypatch.setattr(postgres, "connection", counted)
    found = await asyncio.gather(*(archived.after("r", Position(1, 5), 10) for _member in range(2000)))
    assert {tuple(message.position.seq for message in each) for each in found} == {(6, 7, 8, 9, 10)}
    assert reads == 1
    # A read that has begun may lack what was trimmed from the log since, so later members have another one.
    first = asyncio.create_task(archived.after("r", Position(1, 5), 10))
    while reads < 2:  # noqa: ASYNC110 - by turns of the loop
        await asyncio.sleep(0)
    await insert(connection, 11)
    assert [message.position.seq for message in await archived.after("r", Position(1, 5), 10)] == [6, 7, 8, 9, 10, 11]
    await first
    # One that leaves takes nothing from the others.
    leaving, staying = (asyncio.create_task(archived.before("r", None, 1)) for _member in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    assert [message.position.seq for message in await staying] == [11]
    await postgres.close()


async def test_many_different_reads_wait_for_each_other_and_are_no_outage(
    connection: asyncpg.Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each read waits for its turn for as long as it takes, not for a connection of the pool."""
    monkeypatch.setattr("wsserver.archive.postgres._CONNECT_TIMEOUT_S", 0.5)
    slow = messages_module._AFTER.replace("SELECT epoch", "SELECT pg_sleep(0.1), epoch", 1)
    monkeypatch.setattr(messages_module, "_AFTER", f"SELECT epoch, seq, sender, extract, data FROM ({slow}) AS slow")
    postgres = Postgres(dsn)
    archived = ArchivedMessages(postgres)
    found = await asyncio.gather(*(archived.after("r", Position(1, seq), 1) for seq in range(10)))
    assert [message.position.seq for [message] in found] == list(range(1, 11))
    assert postgres.available
    await postgres.close()


async def test_a_read_that_takes_too_long_is_no_outage(
    connection: asyncpg.Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sessions.SETTINGS, "statement_timeout", "300")
    postgres = Postgres(dsn)
    async with connection.transaction():
        await connection.execute("LOCK TABLE messages")
        with pytest.raises(ArchiveUnavailable):
            await ArchivedMessages(postgres).after("r", Position(1, 5), 10)
        assert postgres.available
        with pytest.raises(ArchiveUnavailable):
            async with postgres.connection(even_if_unavailable=True) as slow:
                await slow.fetch("SELECT FROM messages")
        assert not postgres.available, "the archiver cannot store anything either"
    await postgres.close()


async def test_an_outage_ends_all_reads(connection: asyncpg.Connection, dsn: str, cluster: Cluster) -> None:
    postgres = Postgres(dsn)
    archived = ArchivedMessages(postgres)
    await archived.after("r", Position(1, 5), 10)
    cluster.stop()
    try:
        reads = (archived.after("r", Position(1, seq), 10) for seq in range(20))
        errors = await asyncio.gather(*reads, return_exceptions=True)
        assert all(isinstance(error, ArchiveUnavailable) for error in errors), errors
    finally:
        cluster.start()
    postgres.available = True  # as the archiver finds out
    assert len(await archived.after("r", Position(1, 5), 10)) == 5
    await postgres.close()


async def test_a_session_that_is_read_only_is_discarded(dsn: str) -> None:
    """After a failover, a pooled session stays read-only, while a new one could write."""
    owner = await asyncpg.connect(dsn)
    database = await owner.fetchval("SELECT current_database()")
    await owner.execute(f'ALTER DATABASE "{database}" SET default_transaction_read_only = on')
    postgres = Postgres(dsn)
    async with postgres.connection() as connection:
        assert await connection.fetchval("SHOW default_transaction_read_only") == "on"
    await owner.execute("SET default_transaction_read_only = off")
    await owner.execute(f'ALTER DATABASE "{database}" RESET default_transaction_read_only')
    insert = "INSERT INTO messages VALUES ('r', 1, 1, 'u', now(), '1')"
    with pytest.raises(ArchiveUnavailable):
        async with postgres.connection() as connection:
            await connection.execute(insert)
    assert not postgres.available
    async with postgres.connection(even_if_unavailable=True) as connection:
        await connection.execute(insert)
    assert postgres.available
    await owner.close()
    await postgres.close()
