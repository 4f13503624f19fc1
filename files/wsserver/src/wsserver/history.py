# SPDX-License-Identifier: MIT
"""A room's past in pages: its log in Redis first, and where that does not reach, Postgres.

The log is believed where it is unbroken: each message the one after the last. It ends at a room's head, begins
where it was trimmed (of what Postgres has), and at the start of an epoch it may lack the tail of the one before.
Where it is not enough, Postgres is asked for the whole page and both are merged.
"""

from __future__ import annotations

from typing import Any

from wsserver.broker import Broker
from wsserver.messages import Message, Position
from wsserver.postgres import Postgres, PostgresUnavailable

_END = Position(2**62, 0)

_BEFORE = """
    SELECT epoch, seq, sender, extract(epoch FROM ts)::float8, data FROM messages
    WHERE room = $1 AND (epoch, seq) < ($2, $3) ORDER BY epoch DESC, seq DESC LIMIT $4
"""
_SINCE = """
    SELECT epoch, seq, sender, extract(epoch FROM ts)::float8, data FROM messages
    WHERE room = $1 AND (epoch, seq) > ($2, $3) ORDER BY epoch, seq LIMIT $4
"""

Page = tuple[list[Message], bool]


class History:
    """`postgres`: None where there is no archive; then the log is all."""

    def __init__(self, broker: Broker, postgres: Postgres | None) -> None:
        self._broker = broker
        self._postgres = postgres

    async def page(self, room: str, before: Position | None, since: Position | None, limit: int) -> Page:
        """Up to `limit` messages, oldest first, and whether others follow in the direction of the question.

        since: the first ones after it; else the last ones before `before`, or of all. A page may be shorter than
        `limit` though others follow, while Postgres is away. Raises BrokerUnavailable.
        """
        if since is not None:
            return await self._since(room, since, limit)
        return await self._before(room, before, limit)

    async def _before(self, room: str, before: Position | None, limit: int) -> Page:
        # One more than asked for tells whether there are others.
        logged = await self._broker.read_before(room, before, limit + 1)
        unbroken = _unbroken_end(logged, before)
        if self._postgres is None or len(unbroken) > limit:
            return logged[-limit:], len(logged) > limit
        try:
            archived = await _fetch(self._postgres, _BEFORE, room, before or _END, limit + 1)
        except PostgresUnavailable:
            if not unbroken:
                raise
            return unbroken, True
        merged = _merge(archived, logged)
        return merged[-limit:], len(merged) > limit

    async def _since(self, room: str, since: Position, limit: int) -> Page:
        logged = await self._broker.read(room, since, limit + 1)
        unbroken = _unbroken_start(logged, since)
        complete = len(unbroken) == len(logged) if logged else await self._broker.heads([room]) == [since]
        if self._postgres is None or complete or len(unbroken) > limit:
            return logged[:limit], len(logged) > limit
        try:
            archived = await _fetch(self._postgres, _SINCE, room, since, limit + 1)
        except PostgresUnavailable:
            if not unbroken:
                raise
            return unbroken, True
        merged = _merge(archived, logged)
        return merged[:limit], len(merged) > limit


def _unbroken_start(messages: list[Message], since: Position) -> list[Message]:
    for index, message in enumerate(messages):
        if message.position != since.next():
            return messages[:index]
        since = message.position
    return messages


def _unbroken_end(messages: list[Message], before: Position | None) -> list[Message]:
    for index in range(len(messages), 0, -1):
        position = messages[index - 1].position
        if before is not None and position.next() != before:
            return messages[index:]
        before = position
    return messages


def _merge(archived: list[Message], logged: list[Message]) -> list[Message]:
    by_position = {message.position: message for message in (*archived, *logged)}
    return [by_position[position] for position in sorted(by_position)]


async def _fetch(postgres: Postgres, query: str, room: str, position: Position, limit: int) -> list[Message]:
    async with postgres.connection() as connection:
        rows: list[Any] = await connection.fetch(query, room, *position, limit)
    return [
        Message(room=room, position=Position(epoch, seq), user=sender, ts=ts, data=data.encode())
        for epoch, seq, sender, ts, data in rows
    ]
