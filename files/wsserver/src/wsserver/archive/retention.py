# SPDX-License-Identifier: MIT
"""Deletes old messages from Postgres."""

from __future__ import annotations

import asyncio
import random

from wsserver.archive.postgres import Postgres, PostgresUnavailable
from wsserver.runtime.tasks import apart
from wsserver.telemetry.logs import log

_INTERVAL_S = 3600.0
# Short transactions with pauses, so that archiver and history can work in between.
_BATCH = 2000
_PAUSE_S = 0.05
# Any number, but the same in every release: one worker of the fleet deletes at a time.
_LOCK = 7_314_190_427

_DELETE = """
    DELETE FROM messages WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM messages WHERE ts < now() - make_interval(days => $1) ORDER BY ts LIMIT $2
    ))
"""


async def keep(postgres: Postgres, days: int) -> None:
    """Delete messages older than `days` from time to time, until cancelled."""
    while True:
        # At random intervals, so that workers that started together do not all begin at once.
        await asyncio.sleep(random.uniform(0.01, 1) * _INTERVAL_S)
        try:
            deleted = await apart(delete_old(postgres, days))
        except (PostgresUnavailable, TimeoutError):
            continue
        if deleted:
            log.info("archive_expired", messages=deleted, days=days)


async def delete_old(postgres: Postgres, days: int) -> int:
    """Delete, and return the number; 0 if another worker is deleting.

    Raises PostgresUnavailable.
    """
    deleted = 0
    async with postgres.connection() as connection:
        if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):
            return 0
        while True:
            # "DELETE n"
            count = int((await connection.execute(_DELETE, days, _BATCH)).split()[1])
            deleted += count
            if count < _BATCH:
                break
            await asyncio.sleep(_PAUSE_S)
        await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK)
    return deleted
