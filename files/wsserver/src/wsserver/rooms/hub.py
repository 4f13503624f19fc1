# SPDX-License-Identifier: MIT
"""Rooms and their members on this worker: what makes a lossy live feed and a log into "once and in order".

Each room knows the position up to which all its live members have been served. A message from the feed moves
it only if it is the next one; a hole is repaired from the log. A member that is behind (it resumed from an
older position, or read too slowly) is not live: it is fed from the log until it has caught up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from wsserver.errors import BrokerUnavailable
from wsserver.protocol.messages import Codec, Delivery, Event, Gap, Joined, MemberEvent, Message, Position, Reset, Since
from wsserver.rooms.batch_writer import BatchWriter
from wsserver.rooms.broker import Broker
from wsserver.runtime.tasks import Tasks
from wsserver.telemetry import metrics
from wsserver.telemetry.logs import log
from wsserver.telemetry.tracing import Tracer

_READ_LIMIT = 64
_HEADS_BATCH = 500
# Live messages kept while a hole before them is read; more than that are read from the log as well.
_OUT_OF_ORDER_LIMIT = 1000
# A message may be on its way in the live feed when its room's head is read.
_FEED_GRACE_S = 0.25
_IDLE_ROOM_S = 5.0


class Member(Protocol):
    """A session, as the hub sees it."""

    codec: Codec
    pending: list[bytes] | None
    write: Callable[[bytes], None]
    open: bool
    paused: bool


class _Room:
    """One room that has, or just had, members on this worker."""

    __slots__ = (
        "idle_since",
        "joining",
        "lagging",
        "live",
        "name",
        "opening",
        "out_of_order",
        "position",
        "syncing",
        "wants_members",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.position = Position(0, 0)
        self.live: dict[Codec, dict[Member, None]] = {}
        self.lagging: dict[Member, _Lag] = {}
        self.wants_members: set[Member] = set()  # members that asked for member events
        self.out_of_order: list[Message] = []
        self.joining = 0
        self.opening: asyncio.Task[None] | None = None
        self.syncing: asyncio.Task[bool] | None = None
        self.idle_since = time.monotonic()

    def has(self, member: Member) -> bool:
        return member in self.lagging or member in self.live.get(member.codec, ())

    def empty(self) -> bool:
        return not self.joining and not self.lagging and not any(self.live.values())


class _Lag:
    """A member's own position while it is behind its room, and the task that feeds it."""

    __slots__ = ("feeding", "position")

    def __init__(self, position: Position) -> None:
        self.position = position
        self.feeding: asyncio.Task[None] | None = None


_Step = tuple[Event | Message, Position]


class Hub:
    def __init__(self, broker: Broker, writer: BatchWriter, tracer: Tracer | None = None) -> None:
        self._broker = broker
        self._writer = writer
        self._tracer = tracer
        self._rooms: dict[str, _Room] = {}
        self._tasks = Tasks()

    @property
    def rooms(self) -> int:
        """Rooms that have, or just had, members on this worker."""
        return len(self._rooms)

    # Members.

    async def join(self, member: Member, name: str, since: Since | None, wants_members: bool = False) -> None:
        """Make `member` a member and queue its `joined`; a second join begins anew. Raises BrokerUnavailable.

        `wants_members`: send it the member events, too.
        """
        room = self._rooms.get(name)
        if room is None:
            room = self._rooms[name] = _Room(name)
            room.opening = self._tasks.spawn(self._open(room))
        room.joining += 1
        try:
            if room.opening is not None:
                await asyncio.shield(room.opening)
                if self._rooms.get(name) is not room:
                    raise BrokerUnavailable("the broker is unavailable")
            self._remove(room, member)
            wanted = None if since is None else Position(int(since.epoch), since.seq)
            steps = None if wanted is None else await self._recover(room, wanted)
            if not member.open:
                return
            start = room.position if wanted is None or steps is None else wanted
            if steps is None and not member.paused:
                room.live.setdefault(member.codec, {})[member] = None
            else:
                room.lagging[member] = _Lag(start)
            if wants_members:
                room.wants_members.add(member)
            if wanted is not None:
                metrics.RESUMES.labels("yes" if steps is not None else "no").inc()
            joined = Joined(room=name, epoch=str(start.epoch), seq=start.seq, recovered=steps is not None)
            self._send(member, joined, start)
            if steps is not None:
                self._feed(room, member, steps)
        finally:
            room.joining -= 1
            room.idle_since = time.monotonic()

    def leave(self, member: Member, name: str) -> None:
        room = self._rooms.get(name)
        if room is not None:
            self._remove(room, member)

    def pause(self, member: Member, names: set[str]) -> None:
        """`member` reads too slowly: stop delivering live to it, and remember where it stopped."""
        for name in names:
            room = self._rooms.get(name)
            if room is not None and member in (live := room.live.get(member.codec, {})):
                del live[member]
                room.lagging[member] = _Lag(room.position)

    def resume(self, member: Member, names: set[str]) -> None:
        """`member` reads again: feed it from the log, from where it stopped."""
        for name in names:
            room = self._rooms.get(name)
            if room is not None and member in room.lagging:
                self._feed(room, member)

    def _remove(self, room: _Room, member: Member) -> None:
        room.live.get(member.codec, {}).pop(member, None)
        room.wants_members.discard(member)
        lag = room.lagging.pop(member, None)
        if lag is not None and lag.feeding is not None:
            lag.feeding.cancel()
        room.idle_since = time.monotonic()

    async def _recover(self, room: _Room, wanted: Position) -> list[_Step] | None:
        """The first steps from `wanted` on, or None if the log cannot continue from there."""
        if wanted > room.position or wanted.epoch != room.position.epoch:
            # Another worker may have delivered a message that this one is still to see.
            await self._synced(room)
        if wanted > room.position or wanted.epoch != room.position.epoch:
            return None
        if wanted == room.position:
            return []
        steps = await self._replay(room.name, wanted, room.position)
        return steps if steps and isinstance(steps[0][0], Message) else None

    # Rooms.

    async def _open(self, room: _Room) -> None:
        """Subscribe first, read the head then: a message published in between arrives on the feed."""
        try:
            await self._broker.subscribe(room.name)
            try:
                room.position = await self._broker.head(room.name)
            except Exception:
                await self._broker.unsubscribe(room.name)
                raise
        except Exception as exc:
            del self._rooms[room.name]  # the next join begins anew
            if isinstance(exc, BrokerUnavailable):
                return  # whoever waits for the room finds it gone
            raise
        room.opening = None
        self._deliver_out_of_order(room)
        if room.out_of_order:
            self._sync(room)

    def on_message(self, message: Message) -> None:
        room = self._rooms.get(message.room)
        if room is None:
            return
        if room.opening is not None or room.syncing is not None:
            if len(room.out_of_order) >= _OUT_OF_ORDER_LIMIT:
                room.out_of_order.clear()
            room.out_of_order.append(message)
        elif message.position == room.position.next():
            self._advance(room, message, message.position)
        elif message.position > room.position:
            room.out_of_order.append(message)
            self._sync(room)

    def on_member(self, room: str, user: str, joined: bool) -> None:
        """Tell the members who asked."""
        event = MemberEvent(room, user, "join" if joined else "leave")
        for member in self._rooms[room].wants_members if room in self._rooms else ():
            self._writer.queue(member, member.codec.frame(event))

    def on_available(self) -> None:
        self._tasks.spawn(self._compare(grace_s=0))

    async def check(self) -> None:
        """Compare every room with its head: a lost message shows even if no other follows. Call every few seconds."""
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
            self._feed_all(room)

    async def _compare_heads(self, rooms: list[_Room], grace_s: float) -> None:
        served = [room.position for room in rooms]
        heads = await self._broker.heads([room.name for room in rooms])
        await asyncio.sleep(grace_s)
        for room, before, head in zip(rooms, served, heads, strict=True):
            # Behind: a message was lost on its way. Ahead of a head that was read later: the log was.
            if head is None or room.position < head or head < before:
                self._sync(room)

    async def _drop_idle(self) -> None:
        now = time.monotonic()
        for room in list(self._rooms.values()):
            if room.empty() and room.opening is None and now - room.idle_since > _IDLE_ROOM_S:
                del self._rooms[room.name]
                await self._broker.unsubscribe(room.name)

    # Delivery.

    def _advance(self, room: _Room, event: Event | Message, position: Position) -> None:
        """Serve all live members with the next step of the room."""
        room.position = position
        for codec, members in room.live.items():
            if members:
                self._writer.broadcast(members, codec.frame(_event(event), position))
        if isinstance(event, Message):
            delivered = sum(map(len, room.live.values()))
            if delivered:
                metrics.MESSAGES_OUT.inc(delivered)
                metrics.FAN_OUT.observe(delivered)
                trace_id = ""
                if event.trace and self._tracer is not None:
                    trace_id = self._tracer.deliver(event.trace, room.name, position.seq, delivered)
                self._writer.observe(event.ts, trace_id)
            if room.lagging and (dropped := sum(member.paused for member in room.lagging)):
                metrics.DROPS.inc(dropped)

    def _deliver_out_of_order(self, room: _Room) -> None:
        out_of_order, room.out_of_order = sorted(room.out_of_order, key=lambda message: message.position), []
        for message in out_of_order:
            if message.position == room.position.next():
                self._advance(room, message, message.position)
            elif message.position > room.position:
                room.out_of_order.append(message)

    def _send(self, member: Member, event: Event | Message, position: Position) -> None:
        self._writer.queue(member, member.codec.frame(_event(event), position))

    # Repair from the log.

    async def _replay(self, name: str, position: Position, target: Position) -> list[_Step]:
        """What follows `position` on the way to `target`, each step with the position after it."""
        steps: list[_Step] = []
        for message in await self._broker.read(name, position, _READ_LIMIT):
            if message.position.epoch != position.epoch:
                position = _reset(steps, name, message.position.epoch)
            if message.position != position.next():
                position = _gap(steps, name, position, message.position.seq - 1)
            position = message.position
            steps.append((message, position))
        if not steps and position.epoch < target.epoch:
            _reset(steps, name, target.epoch)
        elif not steps and position < target:
            _gap(steps, name, position, target.seq)
        return steps

    def _sync(self, room: _Room) -> asyncio.Task[bool]:
        """Start to bring the room to its head, unless that is under way."""
        if room.syncing is None:
            room.syncing = self._tasks.spawn(self._bring_to_head(room))
        return room.syncing

    async def _synced(self, room: _Room) -> None:
        """Bring the room to the head that the log has now, or later. Raises BrokerUnavailable."""
        if room.syncing is not None:
            await asyncio.shield(room.syncing)
        if not await asyncio.shield(self._sync(room)):
            raise BrokerUnavailable("the broker is unavailable")

    async def _bring_to_head(self, room: _Room) -> bool:
        """Whether it got there."""
        try:
            while True:
                # What this worker has served or heard of is in the log, unless the log lost its tail.
                seen = max([room.position, *(message.position for message in room.out_of_order)])
                head = await self._broker.head(room.name)
                if head < seen:
                    head = await self._broker.renew(room.name, seen)
                    log.warning("room_log_lost_its_tail", room_epoch=head.epoch)
                if room.position < head:
                    metrics.ROOM_REPAIRS.inc()
                while room.position < head:
                    for event, position in await self._replay(room.name, room.position, head):
                        self._advance(room, event, position)
                self._deliver_out_of_order(room)
                if not room.out_of_order:  # else what is left came after the head was read
                    return True
        except BrokerUnavailable:
            return False  # `on_available` or `check` starts again
        finally:
            room.out_of_order.clear()
            room.syncing = None

    def _feed_all(self, room: _Room) -> None:
        for member in list(room.lagging):
            self._feed(room, member)

    def _feed(self, room: _Room, member: Member, first: list[_Step] | None = None) -> None:
        """Start to feed a lagging member from the log, unless that is under way or it does not read."""
        lag = room.lagging[member]
        if lag.feeding is None and not member.paused:
            lag.feeding = self._tasks.spawn(self._catch_up(room, member, lag, first or []))

    async def _catch_up(self, room: _Room, member: Member, lag: _Lag, steps: list[_Step]) -> None:
        """Feed `member` from its own position to the room's, then make it live."""
        try:
            while not member.paused:
                for event, position in steps:
                    if position > room.position:
                        break  # the room has yet to see it, and delivers it live
                    self._send(member, event, position)
                    lag.position = position
                    if isinstance(event, Message):
                        metrics.MESSAGES_OUT.inc()
                    elif isinstance(event, Gap):
                        metrics.GAPS.inc()
                if lag.position == room.position:
                    del room.lagging[member]
                    room.live.setdefault(member.codec, {})[member] = None
                    return
                await asyncio.sleep(0)  # the batch writer writes; a full buffer pauses the member
                if member.paused:
                    return
                steps = await self._replay(room.name, lag.position, room.position)
                if steps and steps[0][1] > room.position:
                    await self._synced(room)  # the log begins after the room's own position
        except BrokerUnavailable:
            pass  # `on_available` or `check` starts again
        finally:
            lag.feeding = None


def _event(step: Event | Message) -> Event:
    if isinstance(step, Message):
        data = msgspec.Raw(step.data)
        return Delivery(room=step.room, seq=step.position.seq, user=step.user, ts=step.ts, data=data)
    return step


def _reset(steps: list[_Step], room: str, epoch: int) -> Position:
    position = Position(epoch, 0)
    steps.append((Reset(room=room, epoch=str(epoch), seq=0), position))
    return position


def _gap(steps: list[_Step], room: str, position: Position, last: int) -> Position:
    after = Position(position.epoch, last)
    steps.append((Gap(room=room, first=position.seq + 1, last=last), after))
    return after
