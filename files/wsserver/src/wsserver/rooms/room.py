# SPDX-License-Identifier: MIT
"""One room on this worker: delivers a lossy live feed to the members exactly once and in order.

A room knows the position up to which all its live members have been served. A message from the feed
moves the position only if it is the next one; the room repairs a hole from its past, which is the
log and the archive behind it. A member that is behind (it resumed from an older position, or reads
too slowly) is not live: the room feeds it from the past until it has caught up.

While the archive is unavailable, members that need it wait. They never hear of a gap that the
archive could fill.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from wsserver.errors import ArchiveUnavailable, BrokerError, BrokerUnavailable
from wsserver.protocol.codec import Codec
from wsserver.protocol.events import Delivery, Event, Gap, Joined, MemberEvent, Reset
from wsserver.protocol.types import Message, Position, Since
from wsserver.rooms.batch_writer import BatchWriter
from wsserver.rooms.broker import Broker, Delivered
from wsserver.rooms.past import Past
from wsserver.runtime.tasks import Tasks
from wsserver.telemetry import metrics
from wsserver.telemetry.logs import log
from wsserver.telemetry.tracing import Tracer

_READ_LIMIT = 64
# The number of live messages kept while the room reads a hole before them. The room reads further
# messages from the log, too.
_OUT_OF_ORDER_LIMIT = 1000


class Member(Protocol):
    """A session, as a room sees it."""

    codec: Codec
    pending: tuple[bytes, ...] | None
    write: Callable[[bytes], None]
    open: bool

    @property
    def paused(self) -> bool: ...


@dataclass(slots=True)
class RoomContext:
    """The objects that all rooms of one worker share."""

    broker: Broker
    past: Past
    writer: BatchWriter
    tasks: Tasks
    tracer: Tracer | None


class _Lag:
    """A member's own position while it is behind its room, and the task that feeds it."""

    __slots__ = ("feeding", "position")

    def __init__(self, position: Position) -> None:
        self.position = position
        self.feeding: asyncio.Task[None] | None = None


_Step = tuple[Event | Message, Position]


class Room:
    """A room that has, or just had, members on this worker."""

    __slots__ = (
        "_context",
        "_lagging",
        "_live",
        "_out_of_order",
        "_ts",
        "_wants_members",
        "idle_since",
        "joining",
        "name",
        "opening",
        "position",
        "syncing",
    )

    def __init__(self, name: str, context: RoomContext) -> None:
        self.name = name
        self.position = Position(0, 0)
        self.joining = 0
        self.opening: asyncio.Task[BrokerError | None] | None = None
        self.syncing: asyncio.Task[bool] | None = None
        self.idle_since = time.monotonic()
        self._context = context
        self._ts = 0.0  # of the message at the position
        self._live: dict[Codec, dict[Member, None]] = {}
        self._lagging: dict[Member, _Lag] = {}
        self._wants_members: dict[Codec, dict[Member, None]] = {}  # members that asked for member events
        self._out_of_order: list[Message] = []

    @property
    def empty(self) -> bool:
        return not self.joining and not self._lagging and not any(self._live.values())

    @property
    def delivered(self) -> Delivered:
        return Delivered(self.position, self._ts)

    async def open(self) -> None:
        """Subscribe, then read the head: a message published in between arrives on the feed.

        Raises BrokerError.
        """
        broker = self._context.broker
        await broker.subscribe(self.name)
        try:
            self.position = await broker.head(self.name)
        except BaseException:
            await broker.unsubscribe(self.name)
            raise

    def opened(self) -> None:
        """Deliver what arrived on the feed since `open`."""
        self.opening = None
        self._deliver_out_of_order()
        if self._out_of_order:
            self.sync()

    # Members.

    async def join(self, member: Member, since: Since | None, wants_members: bool, id: str | None) -> None:
        """As `Hub.join`, once the room is open."""
        self.leave(member)
        recovered, steps = False, list[_Step]()
        if since is not None:
            start, recovered, steps = await self._recover(Position(int(since.epoch), since.seq))
            metrics.RESUMES.labels("yes" if recovered else "no").inc()
        else:
            start = self.position
        if not member.open:
            return
        live = start == self.position and not member.paused
        if live:
            self._live.setdefault(member.codec, {})[member] = None
        else:
            self._lagging[member] = _Lag(start)
        if wants_members:
            self._wants_members.setdefault(member.codec, {})[member] = None
        joined = Joined(room=self.name, epoch=str(start.epoch), seq=start.seq, recovered=recovered, id=id)
        self._send(member, joined, start)
        if not live:
            self._feed(member, steps)

    def leave(self, member: Member) -> None:
        self._live.get(member.codec, {}).pop(member, None)
        self._wants_members.get(member.codec, {}).pop(member, None)
        lag = self._lagging.pop(member, None)
        if lag is not None and lag.feeding is not None:
            lag.feeding.cancel()
        self.idle_since = time.monotonic()

    def pause(self, member: Member) -> None:
        """`member` reads too slowly: stop its live delivery, and remember the position where it
        stopped.
        """
        live = self._live.get(member.codec, {})
        if member in live:
            del live[member]
            self._lagging[member] = _Lag(self.position)

    def resume(self, member: Member) -> None:
        """`member` reads again: feed it from the past, from the position where it stopped."""
        if member in self._lagging:
            self._feed(member)

    async def _recover(self, wanted: Position) -> tuple[Position, bool, list[_Step]]:
        """Where a member that was at `wanted` starts, whether it has lost nothing until there, and
        its first steps.
        """
        if wanted > self.position:
            # Another worker may have delivered a message that has yet to reach this one.
            await self._synced()
        if wanted > self.position and await self._lost(wanted):
            await self._synced()
        if wanted > self.position:
            return self.position, False, []
        if wanted == self.position:
            return wanted, True, []
        try:
            steps = await self._replay(wanted, self.position)
        except ArchiveUnavailable:
            return wanted, True, []  # `feed_all` tries again; a loss shows in the replay
        first = next((n for n, (event, _position) in enumerate(steps) if isinstance(event, Message)), len(steps))
        before = [event for event, _position in steps[:first]]
        if not before or (not any(isinstance(event, Gap) for event in before) and await self._ended_at(wanted)):
            return wanted, True, steps
        return steps[first - 1][1], False, steps[first:]

    async def _lost(self, shown: Position) -> bool:
        """Whether the log has lost the message at the position that a client shows. The word of a
        client is no proof: the archive has that message. A new epoch began then.
        """
        if shown.seq == 0:
            return False
        try:
            found = await self._context.past.after(self.name, Position(shown.epoch, shown.seq - 1), 1)
        except ArchiveUnavailable:
            return False
        if [message.position for message in found] != [shown]:
            return False
        await self._context.broker.renew(self.name, shown)
        return True

    async def _ended_at(self, position: Position) -> bool:
        return position in await self._context.broker.ends(self.name)

    # Live delivery.

    def on_message(self, message: Message) -> None:
        """A message from the live feed."""
        if self.opening is not None or self.syncing is not None:
            if len(self._out_of_order) >= _OUT_OF_ORDER_LIMIT:
                self._out_of_order.clear()
            self._out_of_order.append(message)
        elif message.position == self.position.next():
            self._advance(message, message.position)
        elif message.position > self.position:
            self._out_of_order.append(message)
            self.sync()

    def on_member(self, user: str, joined: bool) -> None:
        """Tell the members that asked for member events."""
        event = MemberEvent(self.name, user, "join" if joined else "leave")
        for codec, members in self._wants_members.items():
            if members:
                self._context.writer.broadcast(members, codec.frame(event))

    def _advance(self, event: Event | Message, position: Position) -> None:
        """Serve all live members with the next step of the room."""
        self.position = position
        self._ts = event.ts if isinstance(event, Message) else 0.0
        context = self._context
        delivered = 0
        for codec, members in self._live.items():
            if members:
                context.writer.broadcast(members, codec.frame(_event(event), position))
                delivered += len(members)
        if isinstance(event, Message):
            if delivered:
                metrics.MESSAGES_OUT.inc(delivered)
                metrics.FAN_OUT.observe(delivered)
                trace_id = ""
                if event.trace and context.tracer is not None:
                    trace_id = context.tracer.deliver(event.trace, self.name, position.seq, delivered)
                context.writer.observe(event.ts, trace_id)
            if self._lagging and (dropped := sum(member.paused for member in self._lagging)):
                metrics.DROPS.inc(dropped)

    def _deliver_out_of_order(self) -> None:
        waiting, self._out_of_order = sorted(self._out_of_order, key=lambda message: message.position), []
        for message in waiting:
            if message.position == self.position.next():
                self._advance(message, message.position)
            elif message.position > self.position:
                self._out_of_order.append(message)

    def _send(self, member: Member, event: Event | Message, position: Position) -> None:
        self._context.writer.queue(member, member.codec.frame(_event(event), position))

    # Repair from the log.

    def sync(self) -> asyncio.Task[bool]:
        """Start to bring the room to its head, unless that is under way."""
        if self.syncing is None:
            self.syncing = self._context.tasks.spawn(self._bring_to_head())
        return self.syncing

    async def _synced(self) -> None:
        """Bring the room to the head that the log has now, or later. Raises BrokerUnavailable."""
        if self.syncing is not None:
            await asyncio.shield(self.syncing)
        if not await asyncio.shield(self.sync()):
            raise BrokerUnavailable()

    async def _bring_to_head(self) -> bool:
        """Read up to the head. Return whether the room reached it."""
        broker = self._context.broker
        try:
            while True:
                # The log has everything that this worker delivered or received, unless the log lost
                # its tail.
                seen = max([self.position, *(message.position for message in self._out_of_order)])
                head = await broker.head(self.name)
                if head < seen:
                    head = await broker.renew(self.name, seen)
                    log.warning("room_log_lost_its_tail", room_epoch=head.epoch)
                elif head.epoch != self.position.epoch:
                    # The log may have lost its tail before the epoch ended.
                    head = await broker.renew(self.name, self.position)
                if self.position < head:
                    metrics.ROOM_REPAIRS.inc()
                await self._advance_to(head)
                self._deliver_out_of_order()
                if not self._out_of_order:  # else the rest arrived after the head was read
                    return True
        except BrokerUnavailable:
            return False  # `Hub.on_available` or `Hub.check` starts again
        finally:
            self._out_of_order.clear()
            self.syncing = None

    async def _advance_to(self, head: Position) -> None:
        try:
            while self.position < head:
                for event, position in await self._replay(self.position, head):
                    self._advance(event, position)
        except ArchiveUnavailable:
            # The members up to now wait for the archive. Others are served from the head on.
            for members in self._live.values():
                self._lagging.update((member, _Lag(self.position)) for member in members)
                members.clear()
            self.position, self._ts = head, 0.0

    async def _replay(self, position: Position, target: Position) -> list[_Step]:
        """The first steps from `position` to `target`, which is later, each with the position after
        it.
        """
        steps: list[_Step] = []
        try:
            messages = await self._context.past.after(self.name, position, _READ_LIMIT)
        except ArchiveUnavailable:
            metrics.ARCHIVE_WAITS.inc()
            raise
        found = {message.position: message for message in messages if message.position <= target}
        last = max(found, default=target)
        # An epoch that is known to have ended later than what exists of it has lost messages.
        ends = await self._context.broker.ends(self.name) if position.epoch < last.epoch else []
        for place in sorted({*found, *(end for end in ends if position < end < last and end.seq)}):
            if place.epoch != position.epoch:
                position = self._reset(steps, place.epoch)
            message = found.get(place)
            lost = place if message is None else Position(place.epoch, place.seq - 1)
            if position < lost:
                position = self._gap(steps, position, lost.seq)
            if message is not None:
                position = place
                steps.append((message, position))
        if not found and position.epoch < target.epoch:
            self._reset(steps, target.epoch)
        elif not steps:
            self._gap(steps, position, target.seq)
        return steps

    def _reset(self, steps: list[_Step], epoch: int) -> Position:
        position = Position(epoch, 0)
        steps.append((Reset(room=self.name, epoch=str(epoch), seq=0), position))
        return position

    def _gap(self, steps: list[_Step], position: Position, last: int) -> Position:
        after = Position(position.epoch, last)
        steps.append((Gap(room=self.name, first=position.seq + 1, last=last), after))
        return after

    def feed_all(self) -> None:
        """Feed every member that is behind."""
        for member in list(self._lagging):
            self._feed(member)

    def _feed(self, member: Member, first: list[_Step] | None = None) -> None:
        """Start to feed a lagging member from the past, unless that is under way or the member does
        not read.
        """
        lag = self._lagging[member]
        if lag.feeding is None and not member.paused:
            lag.feeding = self._context.tasks.spawn(self._catch_up(member, lag, first or []))

    async def _catch_up(self, member: Member, lag: _Lag, steps: list[_Step]) -> None:
        """Feed `member` from its own position to the room's, then make it live."""
        try:
            # A member that left, and perhaps joined again, has another lag or none.
            while self._lagging.get(member) is lag and not member.paused:
                for event, position in steps:
                    self._send(member, event, position)
                    lag.position = position
                    if isinstance(event, Message):
                        metrics.MESSAGES_OUT.inc()
                    elif isinstance(event, Gap):
                        metrics.GAPS.inc()
                if lag.position == self.position:
                    del self._lagging[member]
                    self._live.setdefault(member.codec, {})[member] = None
                    return
                await asyncio.sleep(0)  # the batch writer writes; a full buffer pauses the member
                if member.paused:
                    return
                steps = await self._replay(lag.position, self.position)
        except BrokerUnavailable:
            pass  # `Hub.on_available` or `Hub.check` starts again
        finally:
            lag.feeding = None


def _event(step: Event | Message) -> Event:
    if isinstance(step, Message):
        epoch, seq = step.position
        return Delivery(step.room, seq, step.user, step.ts, msgspec.Raw(step.data), str(epoch))
    return step
