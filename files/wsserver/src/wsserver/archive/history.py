# SPDX-License-Identifier: MIT
"""Pages of a room's past: from its log in Redis, and from Postgres where the log does not reach.

The log counts where it is unbroken: each message follows the one before. The log ends at a room's
head, and begins where it was trimmed (Postgres has the rest). At the start of an epoch the tail of
the epoch before may be missing. Where the log is not enough, Postgres provides the whole page, and
both are merged.
"""

from __future__ import annotations

from typing import Any

from wsserver.archive.postgres import Postgres, PostgresUnavailable
from wsserver.protocol.types import Message, Position
from wsserver.rooms.broker import READ_BYTES, Broker

_END = Position(2**62, 0)

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
_SINCE = _BOUNDED.format(side=">", order="epoch, seq")

Page = tuple[list[Message], bool]


class History:
    """`postgres`: None without an archive. Then only the log counts."""

    def __init__(self, broker: Broker, postgres: Postgres | None) -> None:
        self._broker = broker
        self._postgres = postgres

    async def page(self, room: str, before: Position | None, since: Position | None, limit: int) -> Page:
        """Up to `limit` messages, oldest first, and whether more follow in the direction of the
        request.

        With `since` the first messages after it, else the last messages before `before`, or of all.
        A page ends early once it has READ_BYTES of data; while Postgres is unavailable it may be
        shorter. Raises BrokerUnavailable.
        """
        if since is not None:
            return await self._since(room, since, limit)
        return await self._before(room, before, limit)

    async def _before(self, room: str, before: Position | None, limit: int) -> Page:
        head = (await self._broker.heads([room]))[0] if before is None else None
        # One message more than requested shows whether there are more.
        logged = await self._broker.read_before(room, before, limit + 1)
        # If Redis lost its last writes, a log ends before the room's head.
        has_end = head is None or (logged and logged[-1].position >= head)
        unbroken = _unbroken_end(logged, before) if has_end else []
        if self._postgres is None or _last(unbroken, limit)[1]:
            return _last(logged, limit)
        try:
            archived = await _fetch(self._postgres, _BEFORE, room, before or _END, limit + 1)
        except PostgresUnavailable:
            if not unbroken:
                raise
            return unbroken, True
        return _last(_merge(archived, logged), limit)

    async def _since(self, room: str, since: Position, limit: int) -> Page:
        logged = await self._broker.read(room, since, limit + 1)
        unbroken = _unbroken_start(logged, since)
        if self._postgres is None or _first(unbroken, limit)[1]:
            return _first(logged, limit)
        end = unbroken[-1].position if unbroken else since
        if len(unbroken) == len(logged) and await self._broker.heads([room]) == [end]:
            return _first(logged, limit)
        try:
            archived = await _fetch(self._postgres, _SINCE, room, since, limit + 1)
        except PostgresUnavailable:
            if not unbroken:
                raise
            return unbroken, True
        return _first(_merge(archived, logged), limit)


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


def _first(messages: list[Message], limit: int) -> Page:
    """The page at the start of `messages`.

    If the limit or the size of a read ended the page, one message is left over.
    """
    size = count = 0
    while count < min(limit, len(messages)) and size < READ_BYTES:
        size += len(messages[count].data)
        count += 1
    return messages[:count], count < len(messages)


def _last(messages: list[Message], limit: int) -> Page:
    page, more = _first(messages[::-1], limit)
    return page[::-1], more


def _merge(archived: list[Message], logged: list[Message]) -> list[Message]:
    by_position = {message.position: message for message in (*archived, *logged)}
    return [by_position[position] for position in sorted(by_position)]


async def _fetch(postgres: Postgres, query: str, room: str, position: Position, limit: int) -> list[Message]:
    async with postgres.connection() as connection:
        rows: list[Any] = await connection.fetch(query, room, *position, limit, READ_BYTES)
    return [
        Message(room=room, position=Position(epoch, seq), user=sender, ts=ts, data=data.encode())
        for epoch, seq, sender, ts, data in rows
    ]
