# SPDX-License-Identifier: MIT
"""Reads the messages of a room from Postgres."""

from __future__ import annotations

import asyncio
from typing import Any

from wsserver.archive.postgres import Postgres
from wsserver.protocol.types import Message, Position
from wsserver.rooms.broker import READ_BYTES
from wsserver.runtime.tasks import Tasks

_END = Position(2**62, 0)
# At a time, so that readers leave a connection for the archiver, and wait for each other rather than
# for the pool, whose deadline counts as an outage.
_READS = 2

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
    """The messages in Postgres. All methods raise PostgresUnavailable."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self._free = asyncio.Semaphore(_READS)
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
            task.add_done_callback(_heard)
        return await asyncio.shield(task)

    async def _read(self, question: _Question) -> list[Message]:
        query, room, position, limit = question
        async with self._free:
            del self._waiting[question]
            async with self._postgres.connection() as connection:
                rows: list[Any] = await connection.fetch(query, room, *position, limit, READ_BYTES)
        return [
            Message(room=room, position=Position(epoch, seq), user=sender, ts=ts, data=data.encode())
            for epoch, seq, sender, ts, data in rows
        ]


def _heard(task: asyncio.Task[list[Message]]) -> None:
    if not task.cancelled():
        task.exception()  # if all who asked are gone, asyncio must not report the error
