# SPDX-License-Identifier: MIT
"""The sessions with Postgres that workers need, which not every connection pooler gives."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import asyncpg

# A statement without an answer means that Postgres is gone: a healthy Postgres answers within
# milliseconds.
STATEMENT_TIMEOUT_S = 8.0
SETTINGS = {
    "application_name": "ws-server",
    # Postgres ends a slow statement while the worker still waits: so Postgres is seen to be there.
    "statement_timeout": str(int((STATEMENT_TIMEOUT_S - 1) * 1000)),
}
_CONNECT_TIMEOUT_S = 10
_STATEMENT = "SELECT $1::int"


class PoolerRefused(ValueError):
    """A connection pooler such as pgbouncer is configured in a way that workers cannot use."""


async def _connect(dsn: str, stack: AsyncExitStack) -> Any:
    connection: Any = await asyncpg.connect(dsn, timeout=_CONNECT_TIMEOUT_S, server_settings=SETTINGS)
    stack.push_async_callback(connection.close)
    return connection


async def check(dsn: str) -> None:
    """Raise PoolerRefused unless each connection keeps its own prepared statements.

    Otherwise OSError, or asyncpg's errors.
    """
    async with AsyncExitStack() as stack:
        try:
            one, two = [await _connect(dsn, stack) for _session in range(2)]
            await one.fetchval(_STATEMENT, 1)
            async with two.transaction():  # may take the session that has the statement of `one`
                await two.fetchval(_STATEMENT, 1)
                await one.fetchval(_STATEMENT, 1, timeout=_CONNECT_TIMEOUT_S)
        except asyncpg.InvalidSQLStatementNameError:
            raise PoolerRefused(
                "WS_POSTGRES_DSN leads to a connection pooler in transaction mode, which mixes the prepared statements"
                " of its clients: set pool_mode = session in pgbouncer.ini, or connect to Postgres itself"
            ) from None
        except asyncpg.ProtocolViolationError as exc:
            if "startup parameter" not in str(exc):
                raise
            raise PoolerRefused(
                f"WS_POSTGRES_DSN leads to a connection pooler, which says {str(exc)!r}: set"
                " ignore_startup_parameters = statement_timeout in pgbouncer.ini, or connect to Postgres itself"
            ) from None
