# SPDX-License-Identifier: MIT
"""One authenticated client: carries out its commands in order, and sends the answers.

A session is small, plain data (user, rooms, counts), so that another process can take over a copy
of it; everything about sockets stays in `transport`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import msgspec

from wsserver.auth import CannotTell, Identity, Refused
from wsserver.errors import BrokerError
from wsserver.protocol.codec import BadMessage, Codec
from wsserver.protocol.commands import Authenticate, Command, History, Join, Leave, Ping, Presence, Publish
from wsserver.protocol.events import (
    Ack,
    Authenticated,
    Error,
    Event,
    Expiring,
    HistoryMessage,
    HistoryPage,
    Left,
    Pong,
    Welcome,
)
from wsserver.protocol.types import Message, Position, Since
from wsserver.rooms.broker import Published
from wsserver.sessions.context import SessionContext
from wsserver.sessions.flow_control import ClientTransport, FlowControl
from wsserver.telemetry import metrics
from wsserver.telemetry.logs import log

# A session with many commands lets the other sessions have their turn after so many.
_COMMANDS_IN_TURN = 10


class Session:
    __slots__ = (
        "_backlog",
        "_busy",
        "_context",
        "_entering",
        "_flow",
        "_in_line",
        "_transport",
        "codec",
        "expiry_announced",
        "identity",
        "messages_in",
        "open",
        "pending",
        "retiring",
        "rooms",
        "write",
    )

    def __init__(self, identity: Identity, codec: Codec, transport: ClientTransport, context: SessionContext) -> None:
        self.identity = identity
        self.codec = codec
        self.rooms: set[str] = set()
        self.messages_in = 0
        self.open = True
        self.pending: tuple[bytes, ...] | None = None
        self.write: Callable[[bytes], None] = transport.write
        self.expiry_announced = False
        self.retiring = False  # got the hint to reconnect
        self._transport = transport
        self._flow = FlowControl(transport, context.limits)
        self._context = context
        self._busy: asyncio.Task[None] | None = None
        self._entering: str | None = None  # the joined room that presence does not count yet
        # Messages that wait for the flow control, or for a turn: commands take effect in the order of
        # the messages. Nothing is read meanwhile, if there are more than a few.
        self._backlog: deque[bytes] | None = None
        self._in_line = False  # the session waits for a turn

    def welcome(self, heartbeat_s: float, max_message_bytes: int) -> None:
        self.send(Welcome(self.identity.user, heartbeat_s, max_message_bytes, self.identity.expires))

    def send(self, event: Event) -> None:
        if self.open:
            self._context.writer.queue(self, self.codec.frame(event))

    def refuse(self, error: Error) -> None:
        metrics.ERRORS.labels(error.code).inc()
        self.send(error)

    # Commands.

    def receive(self, payload: bytes) -> None:
        """One whole message from the client. A closed session drops it unread."""
        if not self.open:
            return
        metrics.MESSAGES_IN.inc()
        self.messages_in += 1
        if not self._backlog and not self._flow.blocked and self._context.commands.left():
            self._execute(payload)
            return
        self._backlog = self._backlog or deque()
        self._backlog.append(payload)
        self._line_up()
        if len(self._backlog) == _COMMANDS_IN_TURN:
            self._flow.crowded = True
            self._flow.hold()

    def _carry_on(self) -> None:
        """Carry out some waiting commands, if the flow control lets them; then read again, or hold."""
        if self._backlog:  # this runs for every acknowledged publish
            for _command in range(min(len(self._backlog), _COMMANDS_IN_TURN)):
                if self._flow.blocked or not self._context.commands.left():
                    break
                self._execute(self._backlog.popleft())
            self._line_up()
            self._flow.crowded = len(self._backlog) >= _COMMANDS_IN_TURN
            self._backlog = self._backlog or None  # an empty one would take memory for ever
        self._flow.hold()

    def _line_up(self) -> None:
        """Wait for a turn, if that is all that the waiting commands need."""
        if self._backlog and not self._in_line and not self._flow.blocked:
            self._in_line = True
            self._context.commands.wait(self._next_turn)

    def finish(self) -> None:
        """The client closes: carry out the commands that only wait for a turn."""
        while self._backlog and not self._flow.blocked:
            self._execute(self._backlog.popleft())

    def _next_turn(self) -> None:
        self._in_line = False
        if self.open:
            self._carry_on()

    def _execute(self, payload: bytes) -> None:
        self.charge(1, 0)
        try:
            command = self.codec.decode(payload)
        except BadMessage as exc:
            self.refuse(Error("bad_message", str(exc), exc.id, exc.room))
            return
        self.carry_out(command)

    def carry_out(self, command: Command) -> None:
        match command:
            case Publish():
                self._publish(command)
            case Ping(t, id):
                self.send(Pong(t, id))
            case Join(room):
                if self._allowed(room, command.id):
                    self._take_time(partial(self._join, command), room, command.id)
            case Leave(room, id):
                self._leave(room)
                self.send(Left(room, id))
            case Presence(room):
                if self._allowed(room, command.id):
                    self._take_time(partial(self._presence, command), room, command.id)
            case History(room):
                if self._allowed(room, command.id):
                    self._take_time(partial(self._history, command), room, command.id)
            case Authenticate(token, id):
                self._take_time(partial(self._authenticate, token, id), None, id)

    async def until_idle(self) -> None:
        """Wait for the command under way."""
        if self._busy is not None:
            await asyncio.wait([self._busy])

    def _allowed(self, room: str, id: str | None) -> bool:
        if self.identity.may_join(room):
            return True
        self.refuse(Error("forbidden", "the token does not let you join this room", id, room))
        return False

    def _take_time(self, work: Callable[[], Coroutine[Any, Any, None]], room: str | None, id: str | None) -> None:
        self._busy = asyncio.get_running_loop().create_task(self._in_turn(work, room, id))
        self._flow.busy = True
        self._flow.hold()

    async def _in_turn(self, work: Callable[[], Coroutine[Any, Any, None]], room: str | None, id: str | None) -> None:
        """Carry out a command that takes time, and then the commands that arrived meanwhile."""
        try:
            await self._context.quotas.query(self.identity.user)
            await work()
        except BrokerError as exc:
            self.refuse(Error(exc.code, str(exc), id, room, exc.retry_after_ms))
        except CannotTell as exc:
            self.refuse(Error("unavailable", str(exc), id))
        except Refused as exc:
            self.refuse(Error("not_authenticated", str(exc), id))
        except asyncio.CancelledError:
            if not self.open:
                raise
            # A timeout of a store's client library left a cancellation behind. Without this the
            # session would stay busy, and never read again.
            log.warning("command_cancelled")
            self.refuse(Error("unavailable", "the command was interrupted; try again", id, room))
        except Exception:
            # A programming error must not leave the client without an answer.
            log.exception("command_failed")
            self.refuse(Error("internal", "a fault of the server; it is in its log", id, room))
        self._busy = None
        self._flow.busy = False
        self._carry_on()

    # Rooms.

    async def _join(self, command: Join) -> None:
        room = command.room
        again = room in self.rooms
        if not again:
            # No other join comes between this check and the count.
            if (error := self._one_room_too_many(command)) is not None:
                self.refuse(error)
                return
            self.rooms.add(room)
            self._context.quotas.rooms(self.identity.user, 1)
        self._entering = None if again else room
        try:
            await self._context.hub.join(self, room, command.since, command.members, command.id)
        except BaseException:
            if again:
                self._leave(room)
            self._forget(room)
            raise
        finally:
            self._entering = None
        if self.open and not again:
            self._context.presence.entered(room, self.identity.user)

    def _one_room_too_many(self, command: Join) -> Error | None:
        most = self._context.limits.rooms
        if len(self.rooms) >= most:
            metrics.LIMITED.labels("rooms").inc()
            text = f"one connection may be in {most} rooms: leave one first"
            return Error("too_many_rooms", text, command.id, command.room)
        if (over := self._context.quotas.join(self.identity.user)) is not None:
            metrics.LIMITED.labels(over.limit).inc()
            return Error("rate_limited", over.text, command.id, command.room, retry_after_ms=1000)
        return None

    def _leave(self, room: str) -> None:
        if room in self.rooms:
            self._forget(room)
            self._context.hub.leave(self, room)
            self._context.presence.left(room, self.identity.user)

    def _forget(self, room: str) -> None:
        if room in self.rooms:
            self.rooms.discard(room)
            self._context.quotas.rooms(self.identity.user, -1)

    async def _presence(self, command: Presence) -> None:
        page = await self._context.presence.page(command.room, command.after, command.limit, self.identity.user)
        self._answer(msgspec.structs.replace(page, id=command.id))

    async def _history(self, command: History) -> None:
        messages, more = await self._context.history.page(
            command.room, _position(command.before), _position(command.since), command.limit
        )
        self._answer(HistoryPage(command.room, [_past(message) for message in messages], more, command.id))

    def _answer(self, page: Event) -> None:
        """Send a page, whose bytes count like those that the client sends: pages are large."""
        frame = self.codec.frame(page)
        if self.open:
            self._context.writer.queue(self, frame)
        self.charge(0, len(frame))

    async def _authenticate(self, token: str, id: str | None) -> None:
        self.identity = await self._context.authenticator.refresh(token, self.identity)
        self.expiry_announced = False
        self._transport.renewed()
        self.send(Authenticated(self.identity.expires, id))
        for room in [room for room in self.rooms if not self.identity.may_join(room)]:
            self._leave(room)
            self.refuse(Error("forbidden", "the new token does not let you stay in this room", room=room))

    # Publishing.

    def _publish(self, command: Publish) -> None:
        context, room, id = self._context, command.room, command.id
        if not self.identity.may_publish(room):
            self.refuse(Error("forbidden", "the token does not let you publish to this room", id))
            return
        data = bytes(command.data)
        if (over := context.quotas.publish(self.identity.user, len(data))) is not None:
            metrics.LIMITED.labels(over.limit).inc()
            self.refuse(Error("rate_limited", over.text, id, retry_after_ms=1000))
            return
        self._flow.publish_started(len(data))
        future = context.publisher.publish(room, self.identity.user, id, data)
        future.add_done_callback(partial(self._published, room, id, len(data)))

    def _published(self, room: str, id: str, size: int, future: asyncio.Future[Published]) -> None:
        self._flow.publish_ended(size)
        try:
            published = future.result()
            self.send(Ack(id, room, published.position.seq))
            if published.position.seq == 1 and not published.repeat:
                self._context.quotas.opened_room(self.identity.user)
        except BrokerError as exc:
            self.refuse(Error(exc.code, str(exc), id, retry_after_ms=exc.retry_after_ms))
        except (Exception, asyncio.CancelledError):
            # Without an answer the client would wait for ever; this answer makes it repeat the
            # publish.
            log.exception("publish_failed")
            self.refuse(Error("outcome_unknown", "a fault of the server; it is in its log", id))
        finally:
            del future  # the traceback of its error refers to this frame: a cycle
            self._carry_on()

    # Flow control.

    @property
    def paused(self) -> bool:
        """Whether the client leaves a full send buffer unread."""
        return self._flow.paused

    @property
    def paused_at(self) -> float:
        """When that began: time.monotonic."""
        return self._flow.paused_at

    def pause(self) -> None:
        """The client does not read what it is sent."""
        self._flow.pause()
        self._context.hub.pause(self, self.rooms)
        self._flow.hold()

    def resume(self) -> None:
        self._flow.resume()
        self._context.hub.resume(self, self.rooms)
        self._carry_on()

    def charge(self, frames: int, size: int) -> None:
        """Count frames from the client, and bytes from it or of an answer to it.

        If the limits are exceeded, the next commands wait.
        """
        error = self._flow.charge(frames, size)
        if error is not None:
            self.refuse(error)
            self._flow.throttle()

    def resume_if_paid(self) -> bool:
        """Carry on if the limits allow more; returns whether they do."""
        paid = self._flow.paid()
        if paid:
            self._carry_on()
        return paid

    # The end.

    def tell_expiry(self) -> None:
        self.expiry_announced = True
        self.send(Expiring(self.identity.expires))

    def flush(self) -> None:
        """Write the queue now, before a frame that must follow it."""
        if self.pending:
            chunk, self.pending = b"".join(self.pending), ()
            self.write(chunk)

    def close(self) -> None:
        """The connection is closing or lost: write nothing more, and leave every room soon."""
        if not self.open:
            return
        self.open = False
        self._flow.close()
        self._backlog = None
        self.pending = None
        self.write = _discard
        if self._busy is not None:
            self._busy.cancel()
            self._busy = None  # its traceback refers to this session
        if self.rooms:
            # The command under way has been cancelled: it must not leave any of these rooms.
            rooms, self.rooms = self.rooms, set()
            self._context.departures.enter(partial(self._depart, rooms, self._entering))

    def _depart(self, rooms: set[str], entering: str | None) -> None:
        for room in rooms:
            self._context.hub.leave(self, room)
            if room != entering:
                self._context.presence.dropped(room, self.identity.user)
        self._context.quotas.rooms(self.identity.user, -len(rooms))


def _position(since: Since | None) -> Position | None:
    return None if since is None else Position(int(since.epoch), since.seq)


def _past(message: Message) -> HistoryMessage:
    epoch, seq = message.position
    return HistoryMessage(epoch=str(epoch), seq=seq, user=message.user, ts=message.ts, data=msgspec.Raw(message.data))


def _discard(_chunk: bytes) -> None:
    """Drops the frames of a closed session."""
