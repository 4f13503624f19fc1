# SPDX-License-Identifier: MIT
"""Connections to Postgres: a few, made when they are needed, and whether Postgres is available.

While Postgres is known to be unavailable, callers get an error at once. Only the archiver tries
whether it is back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from wsserver.archive import sessions
from wsserver.errors import ArchiveUnavailable
from wsserver.telemetry import metrics
from wsserver.telemetry.logs import log

# Concurrent reads for clients: reads wait for each other, and never for a connection.
READS = 2
# Per worker, and a host has several workers: the reads, the archiver, the publishes that wait for
# Postgres, and the deletion of old messages. So no writer waits for a reader.
_CONNECTIONS = READS + 3
_CONNECT_TIMEOUT_S = 3.0
_CLOSE_TIMEOUT_S = 2.0
# SQLSTATE classes of a session that will not work again: a read-only one (after a failover, or on
# a full disk), a broken connection, and a server that stops or has run out of something.
_BROKEN = ("25006", "08", "53", "57P", "58", "XX")
# Errors for a statement that Postgres always refuses, because of its values.
REFUSED = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    UnicodeError,
)


class PostgresUnavailable(ArchiveUnavailable):
    """Postgres does not answer, or cannot execute a statement."""


class Postgres:
    """`available`: whether the last statement succeeded; true until one fails."""

    def __init__(self, dsn: str) -> None:
        self.available = True
        self._dsn = dsn
        self._pool: Any = None
        metrics.ARCHIVE_AVAILABLE.set_function(lambda: float(self.available))

    @asynccontextmanager
    async def connection(self, even_if_unavailable: bool = False) -> AsyncIterator[Any]:
        """An asyncpg connection. Raises PostgresUnavailable; the errors in REFUSED pass through.

        `even_if_unavailable`: try to connect in any case, to notice when Postgres is back. Only
        such a caller notices a Postgres that is too slow: a slow read of one client is no outage.
        """
        if not (self.available or even_if_unavailable):
            raise PostgresUnavailable()
        try:
            async with (await self._opened()).acquire(timeout=_CONNECT_TIMEOUT_S) as connection:
                try:
                    yield connection
                except (asyncpg.PostgresError, UnicodeError) as exc:
                    if str(getattr(exc, "sqlstate", "")).startswith(_BROKEN):
                        connection.terminate()  # the next one may reach a Postgres that can write
                    raise
                except BaseException:
                    # Postgres may hang: do not wait for an answer.
                    connection.terminate()
                    raise
        except REFUSED:
            raise
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as exc:
            if even_if_unavailable or not isinstance(exc, asyncpg.QueryCanceledError):
                if self.available:
                    log.warning("postgres_unavailable", error=f"{type(exc).__name__}: {exc}")
                self.available = False
            raise PostgresUnavailable() from exc
        if not self.available:
            log.info("postgres_available")
        self.available = True

    async def _opened(self) -> Any:
        if self._pool is None:
            # This makes no connection yet, so it does not wait.
            self._pool = await asyncpg.create_pool(
                self._dsn,
                min_size=0,
                max_size=_CONNECTIONS,
                timeout=_CONNECT_TIMEOUT_S,
                command_timeout=sessions.STATEMENT_TIMEOUT_S,
                server_settings=sessions.SETTINGS,
            )
        return self._pool

    async def close(self) -> None:
        if self._pool is not None:
            try:
                async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                    await self._pool.close()
            except TimeoutError:
                self._pool.terminate()
