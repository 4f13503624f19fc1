# SPDX-License-Identifier: MIT
"""A room's past: from its log in Redis, and from Postgres where the log does not reach.

The hub feeds members from here, and clients request pages. The log counts where it is unbroken:
each message follows the one before. The log ends at a room's head, and begins where it was trimmed
(Postgres has the rest). At the start of an epoch the tail of the epoch before may be missing. Where
the log is not enough, both are merged.
"""

from __future__ import annotations

from typing import Protocol

from wsserver.errors import ArchiveUnavailable
from wsserver.protocol.types import Message, Position
from wsserver.rooms.broker import READ_BYTES, Broker

Page = tuple[list[Message], bool]

# Rooms whose first message a worker remembers.
_BEGINS_MAX = 10_000


class Archived(Protocol):
    """The store of older messages. All methods raise ArchiveUnavailable."""

    async def after(self, room: str, position: Position, limit: int) -> list[Message]:
        """Up to `limit` messages after `position`, in order, or fewer, as in `Broker.read`."""

    async def before(self, room: str, position: Position | None, limit: int) -> list[Message]:
        """The last `limit` messages before `position` (None: of all), or fewer, in any order."""


class History:
    """Implements the port `Past`, and makes pages. `archived`: None without an archive. Then only
    the log counts.
    """

    def __init__(self, broker: Broker, archived: Archived | None) -> None:
        self._broker = broker
        self._archived = archived
        # Room -> a position before which it has no message. The archive only loses older messages,
        # and gets newer ones.
        self._begins: dict[str, Position] = {}

    async def after(self, room: str, position: Position, limit: int) -> list[Message]:
        """As `Past.after`."""
        logged = await self._broker.read(room, position, limit)
        return _unbroken_start(logged, position) or await self._merged(room, position, limit, logged)

    async def _merged(self, room: str, position: Position, limit: int, logged: list[Message]) -> list[Message]:
        if self._archived is None:
            return logged
        # Read after the log: what was trimmed from the log meanwhile is in Postgres.
        archived = await self._archived.after(room, position, limit)
        # Each of the two may have ended early: nothing is known beyond the end of the shorter one.
        end = min((each[-1].position for each in (archived, logged) if each), default=position)
        return [message for message in _merge(archived, logged) if message.position <= end]

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
        if self._archived is None or _last(unbroken, limit)[1]:
            return _last(logged, limit)
        end = before or (head.next() if head is not None else None)
        begin = unbroken[0].position if unbroken else end
        if begin is not None and room in self._begins and begin <= self._begins[room]:
            return _last(unbroken, limit)
        try:
            archived = await self._archived.before(room, before, limit + 1)
        except ArchiveUnavailable:
            if not unbroken:
                raise
            return unbroken, True
        page, more = _last(_merge(archived, logged), limit)
        begin = page[0].position if page else end
        if not more and begin is not None:
            self._remember(room, begin)
        return page, more

    def _remember(self, room: str, begin: Position) -> None:
        if len(self._begins) >= _BEGINS_MAX:
            self._begins.clear()
        self._begins[room] = begin

    async def _since(self, room: str, since: Position, limit: int) -> Page:
        found: list[Message] = []
        while not _first(found, limit)[1]:
            position = found[-1].position if found else since
            missing = limit + 1 - len(found)
            logged = await self._broker.read(room, position, missing)
            following = _unbroken_start(logged, position)
            if not following:
                if not logged and await self._broker.heads([room]) == [position]:
                    break
                try:
                    following = await self._merged(room, position, missing, logged)
                except ArchiveUnavailable:
                    if not found:
                        raise
                    return found, True
            if not following:
                break
            found += following
        return _first(found, limit)


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
