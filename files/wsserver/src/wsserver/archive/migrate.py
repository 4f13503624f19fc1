# SPDX-License-Identifier: MIT
"""The Postgres schema: numbered SQL files beside this module.

Each is applied once, in a transaction.

A migration only adds, since workers of two releases share the schema during a rollout. A later
release removes the parts that were replaced.
"""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable

import asyncpg

# Any number, but the same in every release: two hosts may migrate at the same time.
_LOCK = 7_314_190_426
_CONNECT_TIMEOUT_S = 10


async def migrate(dsn: str) -> list[str]:
    """Apply the missing migrations; returns their names. Raises OSError, or asyncpg's errors."""
    connection = await asyncpg.connect(dsn, timeout=_CONNECT_TIMEOUT_S)
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
            await connection.execute(
                "CREATE TABLE IF NOT EXISTS schema_migrations"
                " (name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
            )
            done = {row["name"] for row in await connection.fetch("SELECT name FROM schema_migrations")}
            missing = [file for file in _files() if file.name not in done]
            for file in missing:
                await connection.execute(file.read_text())
                await connection.execute("INSERT INTO schema_migrations (name) VALUES ($1)", file.name)
    finally:
        await connection.close()
    return [file.name for file in missing]


def _files() -> list[Traversable]:
    files = (resources.files("wsserver.archive") / "migrations").iterdir()
    return sorted((file for file in files if file.name.endswith(".sql")), key=lambda file: file.name)
