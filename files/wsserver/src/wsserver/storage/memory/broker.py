# SPDX-License-Identifier: MIT
"""The broker of `ws-server dev`: one process, nothing to install. A restart loses all messages."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from wsserver.protocol.types import Message, Position
from wsserver.rooms.broker import Listener, Published

_REMEMBERED_PUBLISHES = 100_000


class MemoryBroker:
    """Rooms in this process's memory, with the same rules as the Redis broker."""

    def __init__(self, log_length: int) -> None:
        self.available = False
        self.fullness = 0.0
        self.disk_full = False
        self._log_length = log_length
        self._epoch = time.time_ns() // 1_000_000
        self._logs: dict[str, deque[Message]] = {}
        self._heads: dict[str, Position] = {}
        self._published: OrderedDict[tuple[str, str, str], Position] = OrderedDict()
        self._subscribed: set[str] = set()
        self._listener: Listener | None = None
        self._carry_out: Callable[[bytes], None] | None = None

    async def run(self, listener: Listener, carry_out: Callable[[bytes], None]) -> None:
        self._listener = listener
        self._carry_out = carry_out
        self.available = True
        listener.on_available()
        await asyncio.get_running_loop().create_future()

    def publish(self, room: str, user: str, id: str, data: bytes, trace: str = "") -> asyncio.Future[Published]:
        future: asyncio.Future[Published] = asyncio.get_running_loop().create_future()
        future.set_result(self._publish(room, user, id, data, trace))
        return future

    def _publish(self, room: str, user: str, id: str, data: bytes, trace: str) -> Published:
        known = self._published.get((user, room, id))
        if known is not None:
            return Published(known, repeat=True)
        position = self._head(room).next()
        message = Message(room=room, position=position, user=user, ts=time.time(), data=data, trace=trace)
        self._heads[room] = position
        self._logs.setdefault(room, deque(maxlen=self._log_length)).append(message)
        self._published[user, room, id] = position
        if len(self._published) > _REMEMBERED_PUBLISHES:
            self._published.popitem(last=False)
        if self._listener is not None and room in self._subscribed:
            self._listener.on_message(message)
        return Published(position, repeat=False)

    def tell_member(self, room: str, user: str, joined: bool) -> None:
        """Send a member event, as Redis does from its script."""
        if self._listener is not None and room in self._subscribed:
            self._listener.on_member(room, user, joined)

    async def publish_control(self, payload: bytes) -> None:
        if self._carry_out is not None:
            self._carry_out(payload)

    async def subscribe(self, room: str) -> None:
        self._subscribed.add(room)

    async def unsubscribe(self, room: str) -> None:
        self._subscribed.discard(room)

    async def head(self, room: str) -> Position:
        return self._head(room)

    def _head(self, room: str) -> Position:
        return self._heads.setdefault(room, Position(self._epoch, 0))

    async def heads(self, rooms: list[str]) -> list[Position | None]:
        return [self._heads.get(room) for room in rooms]

    async def renew(self, room: str, seen: Position) -> Position:
        return await self.head(room)  # a log in memory never loses its tail

    async def ends(self, room: str) -> list[Position]:
        return []

    async def message(self, room: str, position: Position) -> Message | None:
        return next((message for message in self._logs.get(room, ()) if message.position == position), None)

    async def read(self, room: str, after: Position, limit: int) -> list[Message]:
        log = self._logs.get(room, ())
        return [message for message in log if message.position > after][:limit]

    async def read_before(self, room: str, before: Position | None, limit: int) -> list[Message]:
        log = self._logs.get(room, ())
        return [message for message in log if before is None or message.position < before][-limit:]
