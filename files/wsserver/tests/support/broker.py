# SPDX-License-Identifier: MIT
"""A broker that misbehaves on command, within what `wsserver.rooms.broker` allows.

Its live feed drops, delays and repeats messages but never reorders them; its log trims, expires,
loses its tail and begins new epochs; its reads are slow and fail. An archive beside it has what was
trimmed, forgets the oldest, and is unavailable at times.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from wsserver.errors import ArchiveUnavailable, BrokerUnavailable
from wsserver.protocol.types import Message, Position
from wsserver.rooms.broker import Listener, Published


class RoomLog:
    def __init__(self) -> None:
        self.head: Position | None = None
        self.entries: dict[Position, Message] = {}
        # The next use begins a new epoch, as after a restart that may have cost the tail.
        self.new_life = False
        # The tail is lost, and no worker has noticed: a publish now would use a seq twice.
        self.sealed = False
        self.ends: dict[int, int] = {}


class UnreliableArchive:
    """Stands in for `ArchivedMessages`."""

    def __init__(self) -> None:
        self.available = True
        self.read_delay_s = 0.0
        self.entries: dict[str, dict[Position, Message]] = {}

    def keep(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self.entries.setdefault(message.room, {})[message.position] = message

    def forget(self, room: str, count: int) -> None:
        """Delete the oldest, which are too old."""
        kept = self.entries.get(room, {})
        for position in sorted(kept)[:count]:
            del kept[position]

    def has(self, room: str, position: Position) -> bool:
        return position in self.entries.get(room, {})

    async def after(self, room: str, position: Position, limit: int) -> list[Message]:
        await self._read()
        kept = self.entries.get(room, {})
        found = [kept[each] for each in sorted(kept) if each > position][: min(limit, 3)]
        await self._read()
        return found

    async def before(self, room: str, position: Position | None, limit: int) -> list[Message]:
        raise NotImplementedError

    async def _read(self) -> None:
        await asyncio.sleep(self.read_delay_s)
        if not self.available:
            raise ArchiveUnavailable


class UnreliableBroker:
    """`archive`: None without one."""

    def __init__(self, archive: UnreliableArchive | None = None) -> None:
        self.archive = archive
        self.available = True
        self.reads_work = True
        self.read_delay_s = 0.0
        self.failing_reads = 0
        self.logs: dict[str, RoomLog] = {}
        self.published: dict[tuple[str, Position], Message] = {}
        self.feed: deque[Message] = deque()
        self._clock = 1_000
        self._connection = 0
        self._wanted: set[str] = set()
        self.subscribed: set[str] = set()
        self._listener: Listener | None = None

    # Faults.

    def publish_now(self, room: str) -> Position | None:
        log = self._log(room)
        if log.sealed:
            return None
        position = self._open(log).next()
        message = Message(room, position, "someone", 0.0, b'"%d-%d"' % position)
        log.head = position
        log.entries[position] = self.published[room, position] = message
        if room in self.subscribed:
            self.feed.append(message)
        return position

    def deliver(self, fate: str) -> None:
        if not self.feed or fate == "delay":
            return
        message = self.feed.popleft()
        assert self._listener is not None
        for _ in range({"drop": 0, "deliver": 1, "repeat": 2}[fate]):
            self._listener.on_message(message)

    def trim(self, room: str, keep: int) -> None:
        log = self._log(room)
        trimmed = [log.entries.pop(position) for position in sorted(log.entries)[: max(0, len(log.entries) - keep)]]
        if self.archive is not None:
            self.archive.keep(trimmed)

    def move(self, room: str) -> None:
        """The archive gets what is in the log."""
        if self.archive is not None:
            self.archive.keep(self._log(room).entries.values())

    def expire(self, room: str) -> None:
        self.logs[room] = RoomLog()

    def begin_life(self, room: str) -> None:
        self._log(room).new_life = True

    def lose_tail(self, room: str, count: int, noticed: bool) -> None:
        log = self._log(room)
        if log.head is None:
            return
        lost = [Position(log.head.epoch, seq) for seq in range(max(1, log.head.seq - count + 1), log.head.seq + 1)]
        for position in lost:
            log.entries.pop(position, None)
        if lost:
            log.head = Position(log.head.epoch, lost[0].seq - 1)
            log.sealed = not noticed
            log.new_life = log.new_life or noticed

    def disconnect(self, reads_too: bool) -> None:
        self.available = False
        self.reads_work = self.reads_work and not reads_too
        self._connection += 1
        self.subscribed.clear()
        self.feed.clear()

    def connect(self) -> None:
        self.reads_work = True
        if not self.available:
            self.subscribed = set(self._wanted)
            self.available = True
            assert self._listener is not None
            self._listener.on_available()

    def listen(self, listener: Listener) -> None:
        self._listener = listener

    def reaches(self, room: str, position: Position) -> bool:
        """Whether a message still exists."""
        return position in self._log(room).entries or (self.archive is not None and self.archive.has(room, position))

    def head_now(self, room: str) -> Position | None:
        return self._log(room).head

    # Broker.

    async def run(self, listener: Listener, carry_out: Callable[[bytes], None]) -> None:
        raise NotImplementedError

    def publish(self, room: str, user: str, id: str, data: bytes, trace: str = "") -> asyncio.Future[Published]:
        raise NotImplementedError

    async def publish_control(self, payload: bytes) -> None:
        raise NotImplementedError

    async def subscribe(self, room: str) -> None:
        if not self.available:
            raise BrokerUnavailable("away")
        connection = self._connection
        self._wanted.add(room)
        for subscribed in (False, True):
            await asyncio.sleep(self.read_delay_s)
            if connection != self._connection:
                self._wanted.discard(room)
                raise BrokerUnavailable("away")
            if not subscribed:
                self.subscribed.add(room)

    async def unsubscribe(self, room: str) -> None:
        self._wanted.discard(room)
        self.subscribed.discard(room)
        await asyncio.sleep(self.read_delay_s)

    async def head(self, room: str) -> Position:
        await self._before()
        head = self._open(self._log(room))
        await self._after()
        return head

    async def heads(self, rooms: list[str]) -> list[Position | None]:
        await self._before()
        heads = [self._log(room).head for room in rooms]
        await self._after()
        return heads

    async def renew(self, room: str, seen: Position) -> Position:
        await self._before()
        log = self._log(room)
        head = self._open(log)
        if head < seen:
            log.head, log.new_life = seen, True
            head = self._open(log, after=seen.epoch)
        elif seen.epoch in log.ends:
            log.ends[seen.epoch] = max(seen.seq, log.ends[seen.epoch])
        await self._after()
        return head

    async def ends(self, room: str) -> list[Position]:
        await self._before()
        ends = [Position(epoch, seq) for epoch, seq in self._log(room).ends.items()]
        await self._after()
        return ends

    async def read(self, room: str, after: Position, limit: int) -> list[Message]:
        await self._before()
        entries = self._log(room).entries
        # Few at a time, so that a replay takes several reads.
        found = [entries[position] for position in sorted(entries) if position > after][: min(limit, 3)]
        await self._after()
        return found

    async def read_before(self, room: str, before: Position | None, limit: int) -> list[Message]:
        await self._before()
        entries = self._log(room).entries
        found = [entries[position] for position in sorted(entries) if before is None or position < before][-limit:]
        await self._after()
        return found

    async def _before(self) -> None:
        await asyncio.sleep(self.read_delay_s)
        self._fail_if_unavailable()
        if self.failing_reads:
            self.failing_reads -= 1
            raise BrokerUnavailable("this read failed")

    async def _after(self) -> None:
        await asyncio.sleep(self.read_delay_s)
        self._fail_if_unavailable()

    def _fail_if_unavailable(self) -> None:
        if not self.reads_work:
            raise BrokerUnavailable("away")

    def _log(self, room: str) -> RoomLog:
        return self.logs.setdefault(room, RoomLog())

    def _open(self, log: RoomLog, after: int = 0) -> Position:
        if log.head is None or log.new_life:
            self._clock = max(self._clock + 10, after + 1)
            if log.head is not None:
                log.ends[log.head.epoch] = log.head.seq
            log.head, log.new_life, log.sealed = Position(self._clock, 0), False, False
        return log.head
