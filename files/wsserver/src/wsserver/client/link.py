# SPDX-License-Identifier: MIT
"""One connection to a server: commands out in order, events in, and a deadline for its answers."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

import msgspec
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from wsserver.protocol.commands import Command, Ping
from wsserver.protocol.events import Event

log = logging.getLogger(__name__)

_EVENTS = msgspec.json.Decoder[Event](Event)
_TICK_S = 0.5
# How long a server may be silent while it owes an answer, before it is asked whether it is still there.
_PROBE_OWING_S = 3.0
# How long it may take to say so.
_PONG_LEAST_S = 2.0
_PONG_MOST_S = 10.0
# A Ping that measures latency carries a number of its own; this one only wants to hear anything.
_PROBE = Ping(msgspec.Raw(b"null"))


class Link:
    """`may_read`: set while the application keeps up; `owing`: whether the server has something to answer."""

    def __init__(self, connection: ClientConnection, may_read: asyncio.Event, owing: Callable[[], bool]) -> None:
        self.heartbeat_s = _PONG_MOST_S  # until the server says
        self._connection = connection
        self._may_read = may_read
        self._owing = owing
        self._outgoing: deque[bytes] = deque()
        self._more = asyncio.Event()
        self._heard_at = asyncio.get_running_loop().time()
        self._fault = ""

    def send(self, command: Command) -> None:
        self.send_frame(msgspec.json.encode(command))

    def send_frame(self, frame: bytes) -> None:
        self._outgoing.append(frame)
        self._more.set()

    async def run(self, receive: Callable[[Event], None]) -> None:
        """Hand every event to `receive`, until the connection is closed or aborted."""
        helpers = [asyncio.create_task(work) for work in (self._write(), self._watch())]
        try:
            while not self._fault:
                await self._may_read.wait()
                frame = await self._connection.recv(decode=False)
                self._heard_at = asyncio.get_running_loop().time()
                try:
                    event = _EVENTS.decode(frame)
                except msgspec.ValidationError as exc:
                    # Of a later version of the protocol. A message that is passed over leaves a hole, which shows.
                    log.warning("an event that this client does not know is passed over: %s", exc)
                    continue
                except RecursionError:
                    # A message that an older server let through: what comes after it shows the hole.
                    log.warning("an event is nested too deeply to be read")
                    continue
                receive(event)
        except (ConnectionClosed, msgspec.DecodeError) as exc:
            self._fault = self._fault or str(exc)
        finally:
            for helper in helpers:
                helper.cancel()
            await self._connection.close()

    def abort(self, why: str) -> None:
        """Cut the connection now: nothing that it still brings is of use."""
        self._fault = self._fault or why
        self._connection.transport.abort()

    async def close(self) -> None:
        await self._connection.close()

    @property
    def close_code(self) -> int | None:
        return self._connection.close_code

    @property
    def ended(self) -> str:
        """Why, for a person."""
        reason = self._connection.close_reason
        return f"closed with {self.close_code}: {reason}" if reason else self._fault or f"closed with {self.close_code}"

    async def _write(self) -> None:
        try:
            while True:
                await self._more.wait()
                self._more.clear()
                while self._outgoing:
                    await self._connection.send(self._outgoing.popleft(), text=True)
        except ConnectionClosed:
            pass  # the reader knows why

    async def _watch(self) -> None:
        """A peer that vanished says nothing, and neither does TCP: ask when it is silent, and do not wait for ever."""
        loop = asyncio.get_running_loop()
        asked_at: float | None = None
        ticked_at = loop.time()
        while True:
            await asyncio.sleep(_TICK_S)
            now = loop.time()
            late = now - ticked_at > 2 * _TICK_S
            ticked_at = now
            if not self._may_read.is_set() or (late and asked_at is not None):
                self._heard_at = now  # it is this process that did not listen
            patience_s = min(self.heartbeat_s, _PROBE_OWING_S) if self._owing() else self.heartbeat_s
            if asked_at is not None and self._heard_at > asked_at:
                asked_at = None
            if asked_at is None and now - self._heard_at >= patience_s:
                self.send(_PROBE)
                asked_at = now
            elif asked_at is not None and now - asked_at >= min(max(self.heartbeat_s / 2, _PONG_LEAST_S), _PONG_MOST_S):
                self.abort("the server does not answer")
                return
