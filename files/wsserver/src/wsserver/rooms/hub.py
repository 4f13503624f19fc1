# SPDX-License-Identifier: MIT
"""The rooms of this worker: opens a room for its first member, passes the live feed to the rooms,
closes idle ones.

The hub compares all rooms with the heads of their logs, so that a lost message shows even if no
other follows.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from wsserver.errors import BrokerError, BrokerUnavailable
from wsserver.protocol.types import Message, Since
from wsserver.rooms.batch_writer import BatchWriter
from wsserver.rooms.broker import Broker, Delivered
from wsserver.rooms.past import Past
from wsserver.rooms.room import Member, Room, RoomContext
from wsserver.runtime.tasks import Tasks, apart
from wsserver.telemetry.tracing import Tracer

_HEADS_BATCH = 500
# When the hub reads a room's head, the message there may still be on its way in the live feed.
_FEED_GRACE_S = 0.25
_IDLE_ROOM_S = 5.0


class Hub:
    """Local sessions join rooms here; the broker calls the hub as its `Listener`."""

    def __init__(self, broker: Broker, past: Past, writer: BatchWriter, tracer: Tracer | None = None) -> None:
        self._broker = broker
        self._tasks = Tasks()
        self._context = RoomContext(broker, past, writer, self._tasks, tracer)
        self._rooms: dict[str, Room] = {}

    @property
    def rooms(self) -> int:
        """Rooms that have, or just had, members on this worker."""
        return len(self._rooms)

    # Members.

    async def join(
        self, member: Member, name: str, since: Since | None, wants_members: bool = False, id: str | None = None
    ) -> None:
        """Make `member` a member and queue its `joined`; a second join starts over.

        Raises BrokerUnavailable.

        `wants_members`: send it the member events, too. `id`: the `id` of its `joined`.
        """
        room = self._rooms.get(name)
        if room is None:
            room = self._rooms[name] = Room(name, self._context)
            room.opening = self._tasks.spawn(self._open(room))
        room.joining += 1
        try:
            if room.opening is not None:
                if (failure := await asyncio.shield(room.opening)) is not None:
                    raise failure.with_traceback(None)  # shared by all who wait
                if self._rooms.get(name) is not room:
                    raise BrokerUnavailable()
            await room.join(member, since, wants_members, id)
        finally:
            room.joining -= 1
            room.idle_since = time.monotonic()

    async def _open(self, room: Room) -> BrokerError | None:
        """Returns the error for each join that waits for the room."""
        try:
            await room.open()
        except BaseException as exc:
            del self._rooms[room.name]  # the next join starts over
            if isinstance(exc, BrokerError):
                return exc
            if isinstance(exc, asyncio.CancelledError):
                # A timeout of the broker's client library may leave a cancellation behind.
                return BrokerUnavailable()
            raise
        room.opened()
        return None

    def leave(self, member: Member, name: str) -> None:
        room = self._rooms.get(name)
        if room is not None:
            room.leave(member)

    def pause(self, member: Member, names: set[str]) -> None:
        """`member` reads too slowly: stop live delivery in all its rooms."""
        for name in names:
            room = self._rooms.get(name)
            if room is not None:
                room.pause(member)

    def resume(self, member: Member, names: set[str]) -> None:
        """`member` reads again: feed it from the pasts of its rooms."""
        for name in names:
            room = self._rooms.get(name)
            if room is not None:
                room.resume(member)

    # The broker's listener.

    def on_message(self, message: Message) -> None:
        room = self._rooms.get(message.room)
        if room is not None:
            room.on_message(message)

    def on_member(self, room: str, user: str, joined: bool) -> None:
        if room in self._rooms:
            self._rooms[room].on_member(user, joined)

    def delivered(self) -> dict[str, Delivered]:
        return {room.name: room.delivered for room in self._rooms.values() if room.opening is None}

    def on_available(self) -> None:
        self._tasks.spawn(self._compare(grace_s=0))

    # All rooms.

    async def check(self) -> None:
        """Compare every room with its head: a lost message shows even if no other follows.

        Call every few seconds.
        """
        with suppress(TimeoutError):  # the next check does it
            await apart(self._check())

    async def _check(self) -> None:
        await self._drop_idle()
        await self._compare(_FEED_GRACE_S)

    async def _compare(self, grace_s: float) -> None:
        rooms = [room for room in self._rooms.values() if room.opening is None and room.syncing is None]
        for start in range(0, len(rooms), _HEADS_BATCH):
            try:
                await self._compare_heads(rooms[start : start + _HEADS_BATCH], grace_s)
            except BrokerUnavailable:
                return
        for room in rooms:
            room.feed_all()

    async def _compare_heads(self, rooms: list[Room], grace_s: float) -> None:
        served = [room.position for room in rooms]
        heads = await self._broker.heads([room.name for room in rooms])
        await asyncio.sleep(grace_s)
        for room, before, head in zip(rooms, served, heads, strict=True):
            # A room behind its head lost a message on the way. A head behind the room, read later,
            # lost its log.
            if head is None or room.position < head or head < before:
                room.sync()

    async def _drop_idle(self) -> None:
        now = time.monotonic()
        for room in list(self._rooms.values()):
            if room.empty and room.opening is None and now - room.idle_since > _IDLE_ROOM_S:
                del self._rooms[room.name]
                await self._broker.unsubscribe(room.name)
