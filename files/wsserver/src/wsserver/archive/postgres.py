# SPDX-License-Identifier: MIT
"""The way to Postgres: a few connections, made when they are needed, and whether it answers at all.

While it is known to be away everybody is told so at once, but for the one who finds out when it is back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from wsserver.errors import BrokerUnavailable
from wsserver.telemetry import metrics
from wsserver.telemetry.logs import log

# For each worker, of which a host has several.
_CONNECTIONS = 3
_CONNECT_TIMEOUT_S = 3.0
# A statement without an answer means that Postgres is gone; when it is well, all of them take milliseconds.
_STATEMENT_TIMEOUT_S = 8.0
_CLOSE_TIMEOUT_S = 2.0
# A statement that Postgres refuses for good, because of the values in it.
REFUSED = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    UnicodeError,
)


class PostgresUnavailable(BrokerUnavailable):
    """Postgres does not answer, or cannot do what it is asked."""


class Postgres:
    """`available`: whether it did what it was asked last; true until it is found to be away."""

    def __init__(self, dsn: str) -> None:
        self.available = True
        self._dsn = dsn
        self._pool: Any = None
        metrics.ARCHIVE_AVAILABLE.set_function(lambda: float(self.available))

    @asynccontextmanager
    async def connection(self, even_if_away: bool = False) -> AsyncIterator[Any]:
        """An asyncpg connection. Raises PostgresUnavailable; what is in REFUSED passes through.

        even_if_away: to find out, for all, whether Postgres is back.
        """
        if not (self.available or even_if_away):
            raise PostgresUnavailable("the archive is unavailable")
        try:
            async with (await self._opened()).acquire(timeout=_CONNECT_TIMEOUT_S) as connection:
                try:
                    yield connection
                except (asyncpg.PostgresError, UnicodeError):
                    raise
                except BaseException:
                    # An answer may still be on its way, and Postgres may hang: do not wait for it.
                    connection.terminate()
                    raise
        except REFUSED:
            raise
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as exc:
            if self.available:
                log.warning("postgres_unavailable", error=f"{type(exc).__name__}: {exc}")
            self.available = False
            raise PostgresUnavailable("the archive is unavailable") from exc
        if not self.available:
            log.info("postgres_available")
        self.available = True

    async def _opened(self) -> Any:
        if self._pool is None:
            # Makes no connection yet, and so does not wait for anything.
            self._pool = await asyncpg.create_pool(
                self._dsn,
                min_size=0,
                max_size=_CONNECTIONS,
                timeout=_CONNECT_TIMEOUT_S,
                command_timeout=_STATEMENT_TIMEOUT_S,
                server_settings={
                    "application_name": "ws-server",
                    # What a worker no longer waits for, Postgres need not finish.
                    "statement_timeout": str(int(_STATEMENT_TIMEOUT_S * 1000)),
                },
            )
        return self._pool

    async def close(self) -> None:
        if self._pool is not None:
            try:
                async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                    await self._pool.close()
            except TimeoutError:
                self._pool.terminate()
