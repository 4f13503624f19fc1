# SPDX-License-Identifier: MIT
"""Reads the messages of a room from Postgres."""

from __future__ import annotations

import asyncio
from typing import Any

from wsserver.archive.postgres import READS, Postgres
from wsserver.errors import ArchiveBusy
from wsserver.protocol.types import Message, Position
from wsserver.rooms.broker import READ_BYTES
from wsserver.runtime.tasks import Tasks, heard
from wsserver.telemetry import metrics

_END = Position(2**62, 0)
# A read that waits longer than this for the others is refused. Postgres is busy then, not down.
_WAIT_S = 3.0

# As many bytes as a broker reads from a log.
_BOUNDED = """
    SELECT epoch, seq, sender, extract(epoch FROM ts)::float8, data FROM (
        SELECT *, sum(octet_length(data::text)) OVER (
            ORDER BY {order} ROWS BETWEEN UNBOUNDED PRECEDING AND 2 PRECEDING
        ) AS before_last FROM (
            SELECT * FROM messages WHERE room = $1 AND (epoch, seq) {side} ($2, $3) ORDER BY {order} LIMIT $4
        ) AS found
    ) AS measured WHERE coalesce(before_last, 0) < $5
"""
_BEFORE = _BOUNDED.format(side="<", order="epoch DESC, seq DESC")
_AFTER = _BOUNDED.format(side=">", order="epoch, seq")

_Question = tuple[str, str, Position, int]


class ArchivedMessages:
    """The messages in Postgres. All methods raise PostgresUnavailable and ArchiveBusy."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self._free = asyncio.Semaphore(READS)
        self._tasks = Tasks()
        self._waiting: dict[_Question, asyncio.Task[list[Message]]] = {}

    async def after(self, room: str, position: Position, limit: int) -> list[Message]:
        """Up to `limit` messages after `position`, in order; fewer if they have READ_BYTES of data."""
        return await self._shared((_AFTER, room, position, limit))

    async def before(self, room: str, position: Position | None, limit: int) -> list[Message]:
        """As `after`, the last messages before `position` (None: of all), the newest first."""
        return await self._shared((_BEFORE, room, position or _END, limit))

    async def _shared(self, question: _Question) -> list[Message]:
        """The answer to a question, shared by all who ask before Postgres is asked: after an outage,
        all members of a room ask from the same position.

        Later ones need a later answer. A log that was trimmed meanwhile has its messages only there.
        """
        task = self._waiting.get(question)
        if task is None:
            task = self._waiting[question] = self._tasks.spawn(self._read(question))
            task.add_done_callback(heard)
        return await asyncio.shield(task)

    async def _read(self, question: _Question) -> list[Message]:
        query, room, position, limit = question
        try:
            async with asyncio.timeout(_WAIT_S):
                await self._free.acquire()
        except TimeoutError:
            metrics.LIMITED.labels("archive_reads").inc()
            raise ArchiveBusy from None
        finally:
            del self._waiting[question]
        try:
            async with self._postgres.connection() as connection:
                rows: list[Any] = await connection.fetch(query, room, *position, limit, READ_BYTES)
        finally:
            self._free.release()
        return [
            Message(room=room, position=Position(epoch, seq), user=sender, ts=ts, data=data.encode())
            for epoch, seq, sender, ts, data in rows
        ]
