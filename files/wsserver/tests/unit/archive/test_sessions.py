# SPDX-License-Identifier: MIT
"""Workers behind a real pgbouncer."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.postgres import Cluster
from support.wait import until
from support.worker import SECRET, ws_server

from wsserver.archive import sessions
from wsserver.archive.migrate import migrate
from wsserver.archive.postgres import Postgres

Start = Callable[..., str]


@pytest.fixture
def pgbouncer(cluster: Cluster) -> Iterator[Start]:
    """Start a pgbouncer before the cluster; returns the DSN of the database `ws` through it."""
    running: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="ws-pgbouncer-") as directory:

        def start(**settings: str) -> str:
            path = Path(directory)
            path.chmod(0o777)
            options = {
                "listen_addr": "",
                "unix_socket_dir": directory,
                "auth_type": "any",
                "logfile": "",
                **settings,
            }
            lines = [f"{name} = {value}" for name, value in options.items() if value]
            databases = f"ws = host={cluster.directory} dbname=ws user=app"
            (path / "pgbouncer.ini").write_text("\n".join(["[databases]", databases, "[pgbouncer]", *lines, ""]))
            user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
            running.append(subprocess.Popen([*user, "/usr/sbin/pgbouncer", "--quiet", path / "pgbouncer.ini"]))
            return f"postgresql://app@/ws?host={directory}&port=6432"

        yield start
        for process in running:
            process.terminate()
            process.wait(30)


async def available(dsn: str) -> None:
    await until(Path(dsn.partition("host=")[2].partition("&")[0], ".s.PGSQL.6432").exists)


async def test_a_pooler_in_session_mode_serves(dsn: str, pgbouncer: Start) -> None:
    through = pgbouncer(pool_mode="session", ignore_startup_parameters="statement_timeout")
    await available(through)
    await sessions.check(through)
    assert await migrate(through) == []
    postgres = Postgres(through)
    try:
        async with postgres.connection() as one, postgres.connection() as two:
            assert [await session.fetchval("SELECT $1::int", 1) for session in (one, two)] == [1, 1]
    finally:
        await postgres.close()


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"pool_mode": "transaction", "ignore_startup_parameters": "statement_timeout"}, "pool_mode = session"),
        ({"pool_mode": "session"}, "ignore_startup_parameters = statement_timeout"),
    ],
    ids=["transaction mode", "startup parameters"],
)
async def test_a_pooler_that_workers_cannot_use_is_refused(
    dsn: str, pgbouncer: Start, settings: dict[str, str], remedy: str, tmp_path: Path
) -> None:
    through = pgbouncer(**settings)
    await available(through)
    with pytest.raises(sessions.PoolerRefused, match=remedy):
        await sessions.check(through)
    file = tmp_path / "env"
    file.write_text(f"WS_POSTGRES_DSN='{through}'\nWS_JWT_SECRET='{SECRET}'\n")
    done = await asyncio.to_thread(ws_server, "migrate", "--env-file", str(file))
    assert done.returncode == 1
    assert remedy in done.stderr
