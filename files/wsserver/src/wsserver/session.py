# SPDX-License-Identifier: MIT
"""One authenticated client: its commands in order, its answers, and when to stop reading from it.

A session is small, plain data (user, rooms, counts), so that it can be written down and taken up by another
process; everything about sockets stays in `connection`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from wsserver.auth import Identity
from wsserver.broker import Broker, BrokerError, Published
from wsserver.hub import Hub
from wsserver.messages import (
    Ack,
    BadMessage,
    Codec,
    Error,
    Event,
    Join,
    Leave,
    Left,
    Ping,
    Pong,
    Publish,
    Welcome,
)
from wsserver.outbox import Outbox
from wsserver.telemetry import metrics
from wsserver.telemetry.logs import log

# Publishes of one client that may wait for the broker; past that its next frames wait in the kernel.
_PUBLISHES_UNDER_WAY = 256


class Outlet(Protocol):
    """The connection, as the session sees it."""

    def write(self, data: bytes) -> None: ...
    def hold_reading(self, hold: bool) -> None: ...


class Session:
    __slots__ = (
        "_backlog",
        "_broker",
        "_hub",
        "_joining",
        "_outbox",
        "_outlet",
        "_publishing",
        "codec",
        "identity",
        "messages_in",
        "open",
        "paused",
        "paused_at",
        "pending",
        "rooms",
        "write",
    )

    def __init__(
        self, identity: Identity, codec: Codec, outlet: Outlet, hub: Hub, broker: Broker, outbox: Outbox
    ) -> None:
        self.identity = identity
        self.codec = codec
        self.rooms: set[str] = set()
        self.messages_in = 0
        self.open = True
        self.paused = False
        self.paused_at = 0.0
        self.pending: list[bytes] | None = None
        self.write: Callable[[bytes], None] = outlet.write
        self._outlet = outlet
        self._hub = hub
        self._broker = broker
        self._outbox = outbox
        self._publishing = 0
        self._joining: asyncio.Task[None] | None = None
        # Frames that came while a join was under way: commands take effect in the order they were sent.
        self._backlog: deque[bytes] | None = None

    def welcome(self, heartbeat_s: float, max_message_bytes: int) -> None:
        self.send(Welcome(self.identity.user, heartbeat_s, max_message_bytes, self.identity.expires))

    def send(self, event: Event) -> None:
        if self.open:
            self._outbox.queue(self, self.codec.frame(event))

    def receive(self, payload: bytes) -> None:
        """One whole message from the client."""
        metrics.MESSAGES_IN.inc()
        self.messages_in += 1
        if self._joining is not None:
            self._backlog = self._backlog or deque()
            self._backlog.append(payload)
        else:
            self._execute(payload)

    def _execute(self, payload: bytes) -> None:
        try:
            command = self.codec.decode(payload)
        except BadMessage as exc:
            self.send(Error("bad_message", str(exc), exc.id))
            return
        match command:
            case Publish(room, data, id):
                self._publishing += 1
                if self._publishing >= _PUBLISHES_UNDER_WAY:
                    self._hold()
                future = self._broker.publish(room, self.identity.user, id, bytes(data))
                future.add_done_callback(partial(self._published, room, id))
            case Ping(t):
                self.send(Pong(t))
            case Join():
                self._joining = asyncio.get_running_loop().create_task(self._join(command))
                self._hold()
            case Leave(room):
                self.rooms.discard(room)
                self._hub.leave(self, room)
                self.send(Left(room))

    def _published(self, room: str, id: str, future: asyncio.Future[Published]) -> None:
        self._publishing -= 1
        try:
            self.send(Ack(id, room, future.result().position.seq))
        except BrokerError as exc:
            self.send(Error(exc.code, str(exc), id))
        self._hold()

    async def _join(self, command: Join) -> None:
        self.rooms.add(command.room)
        try:
            await self._hub.join(self, command.room, command.since)
        except BrokerError as exc:
            self.rooms.discard(command.room)
            self.send(Error(exc.code, f"join of {command.room}: {exc}", room=command.room))
        except Exception:
            # A fault of this program must not leave the client waiting for good.
            log.exception("join_failed")
            self.rooms.discard(command.room)
            self.send(Error("internal", f"join of {command.room} failed", room=command.room))
        self._joining = None
        while self._backlog and self._joining is None:
            self._execute(self._backlog.popleft())
        self._hold()

    def _hold(self) -> None:
        """Read from the client only as fast as its commands are carried out and its answers are read."""
        self._outlet.hold_reading(
            self.open and (self.paused or self._joining is not None or self._publishing >= _PUBLISHES_UNDER_WAY)
        )

    def pause(self) -> None:
        """The client does not read what it is sent."""
        self.paused = True
        self.paused_at = time.monotonic()
        self._hub.pause(self, self.rooms)
        self._hold()

    def resume(self) -> None:
        self.paused = False
        self._hub.resume(self, self.rooms)
        self._hold()

    def flush(self) -> None:
        """Write what is queued now, before something that must come after it."""
        if self.pending:
            data, self.pending = b"".join(self.pending), []
            self.write(data)

    def close(self) -> None:
        """The connection is closing or gone: leave every room, answer nothing more."""
        if not self.open:
            return
        self.open = False
        self.pending = None
        self.write = _nowhere
        if self._joining is not None:
            self._joining.cancel()
        for room in self.rooms:
            self._hub.leave(self, room)
        self.rooms = set()


def _nowhere(_data: bytes) -> None:
    """Where frames of a closed session go."""
