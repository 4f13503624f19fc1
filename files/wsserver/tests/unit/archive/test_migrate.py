# SPDX-License-Identifier: MIT
"""`ws-server migrate` against a real Postgres."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from tempfile import NamedTemporaryFile

import asyncpg
import pytest
from support.postgres import Cluster
from support.worker import SECRET, ws_server

from wsserver.archive.migrate import migrate


@pytest.fixture
async def dsn(cluster: Cluster) -> str:
    """The DSN of an empty database, without the schema."""
    return await cluster.fresh_database()


async def test_twice(dsn: str) -> None:
    settings = {"WS_POSTGRES_DSN": dsn, "WS_JWT_SECRET": SECRET}
    file = [f"{name}='{value}'\n" for name, value in settings.items()]
    first = await migrate_with(file)
    assert first["applied"] >= 1
    assert first["migrations"][0] == "0001_messages.sql"
    assert await migrate_with(file) == {"applied": 0, "migrations": []}
    connection = await asyncpg.connect(dsn)
    insert = "INSERT INTO messages VALUES ('r', 1, 1, 'u', now(), '{\"a\": 1}') ON CONFLICT DO NOTHING"
    assert [await connection.execute(insert) for _ in range(2)] == ["INSERT 0 1", "INSERT 0 0"]
    await connection.close()


async def migrate_with(lines: list[str]) -> dict[str, object]:
    with NamedTemporaryFile("w") as file:
        file.writelines(lines)
        file.flush()
        done = await asyncio.to_thread(ws_server, "migrate", "--env-file", file.name)
    assert (done.returncode, done.stderr) == (0, "")
    result: dict[str, object] = json.loads(done.stdout)
    return result


async def test_several_at_once(dsn: str) -> None:
    applied = await asyncio.gather(*(migrate(dsn) for _ in range(4)))
    assert sorted(map(len, applied))[:3] == [0, 0, 0]
    assert max(map(len, applied)) >= 1


async def test_a_migration_that_fails_changes_nothing(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute("CREATE TABLE messages ()")  # the first migration cannot create it
    with pytest.raises(asyncpg.PostgresError):
        await migrate(dsn)
    assert await connection.fetchval("SELECT to_regclass('schema_migrations')") is None
    await connection.execute("DROP TABLE messages")
    assert await migrate(dsn)
    await connection.close()


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://app:hunter2@127.0.0.1:1/ws",
        "postgresql://app@/ws?host=/nowhere",
        "postgresql://app:hunter2@127.0.0.1:port/ws",
        "postgresql://app:hunter2@127.0.0.1/ws?sslmode=perhaps",
        "postgresql://[::1/ws",
    ],
)
def test_a_failure_is_one_sentence(dsn: str, tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_text(f"WS_JWT_SECRET='{SECRET}'\nWS_POSTGRES_DSN='{dsn}'\n")
    done = ws_server("migrate", "--env-file", str(path))
    assert done.returncode == 1
    [sentence] = done.stderr.splitlines()
    assert sentence.startswith("ws-server: the schema was not changed: ")
    assert len(sentence) > 50
    assert "hunter2" not in sentence
