# SPDX-License-Identifier: MIT
"""One authenticated client: its commands in order, its answers, and when to stop reading from it.

A session is small, plain data (user, rooms, counts), so that it can be written down and taken up by another
process; everything about sockets stays in `connection` and `event_stream`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol

import msgspec

from wsserver.auth import Identity, Refused
from wsserver.errors import BrokerError
from wsserver.protocol.messages import (
    Ack,
    Authenticate,
    Authenticated,
    BadMessage,
    Codec,
    Command,
    Error,
    Event,
    Expiring,
    History,
    HistoryMessage,
    HistoryPage,
    Join,
    Leave,
    Left,
    Message,
    Ping,
    Pong,
    Position,
    Presence,
    Publish,
    Since,
    Welcome,
)
from wsserver.rooms.broker import Published
from wsserver.sessions.context import SessionContext
from wsserver.telemetry import metrics
from wsserver.telemetry.logs import log

# Publishes of one client that may wait for the broker, by number and by bytes; past that its next frames wait in
# the kernel.
_PUBLISHES_UNDER_WAY = 256
_BYTES_UNDER_WAY = 1 << 20


class ClientTransport(Protocol):
    """The connection, as the session sees it."""

    def write(self, chunk: bytes) -> None: ...
    def hold_reading(self, hold: bool) -> None: ...

    def throttle(self) -> None:
        """Call `session.resume_if_paid()` about once a second until it returns true."""


class Session:
    __slots__ = (
        "_backlog",
        "_busy",
        "_bytes_paid",
        "_bytes_under_way",
        "_context",
        "_entering",
        "_frames_paid",
        "_throttled",
        "_transport",
        "_under_way",
        "codec",
        "expiry_told",
        "identity",
        "messages_in",
        "open",
        "paused",
        "paused_at",
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
        self.paused = False
        self.paused_at = 0.0
        self.pending: list[bytes] | None = None
        self.write: Callable[[bytes], None] = transport.write
        self.expiry_told = False
        self.retiring = False  # was asked to reconnect elsewhere
        self._transport = transport
        self._context = context
        self._under_way = 0
        self._bytes_under_way = 0
        self._frames_paid = 0.0
        self._bytes_paid = 0.0
        self._throttled = False
        self._busy: asyncio.Task[None] | None = None
        self._entering: str | None = None  # the room, of `rooms`, that presence is still to hear of
        # Frames that came while a command was under way: commands take effect in the order they were sent.
        self._backlog: deque[bytes] | None = None

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
        """One whole message from the client."""
        metrics.MESSAGES_IN.inc()
        self.messages_in += 1
        if self._busy is not None:
            self._backlog = self._backlog or deque()
            self._backlog.append(payload)
        else:
            self._execute(payload)

    def _execute(self, payload: bytes) -> None:
        try:
            command = self.codec.decode(payload)
        except BadMessage as exc:
            self.refuse(Error("bad_message", str(exc), exc.id))
            return
        self.carry_out(command)

    def carry_out(self, command: Command) -> None:
        match command:
            case Publish():
                self._publish(command)
            case Ping(t):
                self.send(Pong(t))
            case Join(room):
                if room not in self.rooms and len(self.rooms) >= self._context.limits.rooms:
                    metrics.LIMITED.labels("rooms").inc()
                    text = f"one connection may be in {self._context.limits.rooms} rooms: leave one first"
                    self.refuse(Error("too_many_rooms", text, room=room))
                elif self._allowed(room):
                    self._take_time(partial(self._join, command), room)
            case Leave(room):
                self._leave(room)
                self.send(Left(room))
            case Presence(room, after, limit):
                if self._allowed(room):
                    self._take_time(partial(self._presence, room, after, limit), room)
            case History(room):
                if self._allowed(room):
                    self._take_time(partial(self._history, command), room)
            case Authenticate(token):
                self._take_time(partial(self._authenticate, token))

    def _allowed(self, room: str) -> bool:
        if self.identity.may_join(room):
            return True
        self.refuse(Error("forbidden", "the token does not let you join this room", room=room))
        return False

    def _take_time(self, work: Callable[[], Coroutine[Any, Any, None]], room: str | None = None) -> None:
        self._busy = asyncio.get_running_loop().create_task(self._in_turn(work, room))
        self._hold()

    async def _in_turn(self, work: Callable[[], Coroutine[Any, Any, None]], room: str | None) -> None:
        """Carry out a command that has to wait for something, and then those that came meanwhile."""
        try:
            await work()
        except BrokerError as exc:
            self.refuse(Error(exc.code, str(exc), room=room))
        except Refused as exc:
            self.refuse(Error("not_authenticated", str(exc)))
        except Exception:
            # A fault of this program must not leave the client waiting for good.
            log.exception("command_failed")
            self.refuse(Error("internal", "a fault of the server; it is in its log", room=room))
        self._busy = None
        while self._backlog and self._busy is None:
            self._execute(self._backlog.popleft())
        self._hold()

    # Rooms.

    async def _join(self, command: Join) -> None:
        room = command.room
        again = room in self.rooms
        self.rooms.add(room)
        self._entering = None if again else room
        try:
            await self._context.hub.join(self, room, command.since, command.members)
        except BaseException:
            if again:
                self._leave(room)
            self.rooms.discard(room)
            raise
        finally:
            self._entering = None
        if self.open and not again:
            self._context.presence.entered(room, self.identity.user)

    def _leave(self, room: str) -> None:
        if room in self.rooms:
            self.rooms.discard(room)
            self._context.hub.leave(self, room)
            self._context.presence.left(room, self.identity.user)

    async def _presence(self, room: str, after: str, limit: int) -> None:
        self.send(await self._context.presence.page(room, after, limit))

    async def _history(self, command: History) -> None:
        messages, more = await self._context.history.page(
            command.room, _position(command.before), _position(command.since), command.limit
        )
        self.send(HistoryPage(command.room, [_past(message) for message in messages], more))

    async def _authenticate(self, token: str) -> None:
        self.identity = await self._context.authenticator.refresh(token, self.identity)
        self.expiry_told = False
        self.send(Authenticated(self.identity.expires))
        for room in [room for room in self.rooms if not self.identity.may_join(room)]:
            self._leave(room)
            self.refuse(Error("forbidden", "the new token does not let you stay in this room", room=room))

    # Publishing.

    def _publish(self, command: Publish) -> None:
        context, room, id = self._context, command.room, command.id
        if not self.identity.may_publish(room):
            self.refuse(Error("forbidden", "the token does not let you publish to this room", id))
            return
        if not context.quotas.allow(self.identity.user):
            metrics.LIMITED.labels("user_messages").inc()
            text = "this user publishes more than is allowed over all connections"
            self.refuse(Error("rate_limited", text, id, retry_after_ms=1000))
            return
        data = bytes(command.data)
        self._under_way += 1
        self._bytes_under_way += len(data)
        self._hold()
        future = context.publisher.publish(room, self.identity.user, id, data)
        future.add_done_callback(partial(self._published, room, id, len(data)))

    def _published(self, room: str, id: str, size: int, future: asyncio.Future[Published]) -> None:
        self._under_way -= 1
        self._bytes_under_way -= size
        try:
            self.send(Ack(id, room, future.result().position.seq))
        except BrokerError as exc:
            self.refuse(Error(exc.code, str(exc), id))
        except (Exception, asyncio.CancelledError):
            # Without an answer the client would wait for good; with this one it repeats the publish.
            log.exception("publish_failed")
            self.refuse(Error("outcome_unknown", "a fault of the server; it is in its log", id))
        finally:
            self._hold()

    # Reading only as fast as commands are carried out, answers are read, and limits allow.

    def _hold(self) -> None:
        self._transport.hold_reading(
            self.open
            and (
                self.paused
                or self._throttled
                or self._busy is not None
                or self._under_way >= _PUBLISHES_UNDER_WAY
                or self._bytes_under_way >= _BYTES_UNDER_WAY
            )
        )

    def charge(self, frames: int, size: int) -> None:
        """Count what the client sent; if that is too much, the rest waits."""
        limits, now = self._context.limits, time.monotonic()
        self._frames_paid = limits.frames.spend(self._frames_paid, now, frames)
        self._bytes_paid = limits.bytes.spend(self._bytes_paid, now, size)
        late_frames = limits.frames.late_s(self._frames_paid, now)
        late_bytes = limits.bytes.late_s(self._bytes_paid, now)
        if self._throttled or not (late_frames or late_bytes):
            return
        self._throttled = True
        if late_frames >= late_bytes:
            metrics.LIMITED.labels("connection_frames").inc()
            text = f"more than {limits.frames.per_s:g} frames a second: the next ones wait"
        else:
            metrics.LIMITED.labels("connection_bytes").inc()
            text = f"more than {limits.bytes.per_s:g} bytes a second: the next ones wait"
        self.refuse(Error("rate_limited", text, retry_after_ms=int(1000 * max(late_frames, late_bytes)) + 1))
        self._transport.throttle()
        self._hold()

    def resume_if_paid(self) -> bool:
        """Read again if what came before is paid for; returns whether it is."""
        limits, now = self._context.limits, time.monotonic()
        if limits.frames.late_s(self._frames_paid, now) or limits.bytes.late_s(self._bytes_paid, now):
            return False
        self._throttled = False
        self._hold()
        return True

    def pause(self) -> None:
        """The client does not read what it is sent."""
        self.paused = True
        self.paused_at = time.monotonic()
        self._context.hub.pause(self, self.rooms)
        self._hold()

    def resume(self) -> None:
        self.paused = False
        self._context.hub.resume(self, self.rooms)
        self._hold()

    # The end.

    def tell_expiry(self) -> None:
        self.expiry_told = True
        self.send(Expiring(self.identity.expires))

    def flush(self) -> None:
        """Write what is queued now, before something that must come after it."""
        if self.pending:
            chunk, self.pending = b"".join(self.pending), []
            self.write(chunk)

    def close(self) -> None:
        """The connection is closing or gone: leave every room, answer nothing more."""
        if not self.open:
            return
        self.open = False
        self.pending = None
        self.write = _nowhere
        if self._busy is not None:
            self._busy.cancel()
        for room in self.rooms:
            self._context.hub.leave(self, room)
            if room != self._entering:
                self._context.presence.dropped(room, self.identity.user)
        self.rooms = set()


def _position(since: Since | None) -> Position | None:
    return None if since is None else Position(int(since.epoch), since.seq)


def _past(message: Message) -> HistoryMessage:
    epoch, seq = message.position
    return HistoryMessage(epoch=str(epoch), seq=seq, user=message.user, ts=message.ts, data=msgspec.Raw(message.data))


def _nowhere(_chunk: bytes) -> None:
    """Where frames of a closed session go."""
