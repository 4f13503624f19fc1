# SPDX-License-Identifier: MIT
"""One connection to a server: sends commands in order, receives events, and has a deadline for
answers.
"""

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
# How long the server may be silent while an answer is due, before the client sends a ping.
_PROBE_OWING_S = 3.0
# How long the server may take to answer the ping.
_PONG_LEAST_S = 2.0
_PONG_MOST_S = 10.0
# A ping that measures latency has a number; for this ping, any answer will do.
_PROBE = Ping(msgspec.Raw(b"null"))


class Link:
    """`may_read`: set while the application keeps up.

    `owing`: whether an answer of the server is due. `tick` is called twice a second, with whether
    this process itself was paused.
    """

    def __init__(
        self,
        connection: ClientConnection,
        may_read: asyncio.Event,
        owing: Callable[[], bool],
        tick: Callable[[bool], None],
    ) -> None:
        self.heartbeat_s = _PONG_MOST_S  # until the server names its own
        self._connection = connection
        self._may_read = may_read
        self._owing = owing
        self._tick = tick
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
        """Call `receive` with every event, until the connection is closed or aborted."""
        helpers = [asyncio.create_task(work) for work in (self._write(), self._watch())]
        try:
            while not self._fault:
                await self._may_read.wait()
                frame = await self._connection.recv(decode=False)
                self._heard_at = asyncio.get_running_loop().time()
                try:
                    event = _EVENTS.decode(frame)
                except msgspec.ValidationError as exc:
                    # From a later version of the protocol. If a message is ignored, the client
                    # notices the hole.
                    log.warning("an unknown event is ignored: %s", exc)
                    continue
                except RecursionError:
                    # An older server let this message through. The next message shows the hole.
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
        """Cut the connection now, and drop all that has yet to arrive."""
        self._fault = self._fault or why
        self._connection.transport.abort()

    async def close(self) -> None:
        await self._connection.close()

    @property
    def close_code(self) -> int | None:
        return self._connection.close_code

    @property
    def ended(self) -> str:
        """The reason for the end, for people."""
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
            pass  # the reader has the reason

    async def _watch(self) -> None:
        """Ping a silent server, and give up without an answer: TCP does not report a server that
        vanished.
        """
        loop = asyncio.get_running_loop()
        asked_at: float | None = None
        ticked_at = loop.time()
        while True:
            await asyncio.sleep(_TICK_S)
            now = loop.time()
            late = now - ticked_at > 2 * _TICK_S
            ticked_at = now
            self._tick(late)
            if not self._may_read.is_set() or (late and asked_at is not None):
                self._heard_at = now  # this process itself was paused
            patience_s = min(self.heartbeat_s, _PROBE_OWING_S) if self._owing() else self.heartbeat_s
            if asked_at is not None and self._heard_at > asked_at:
                asked_at = None
            if asked_at is None and now - self._heard_at >= patience_s:
                self.send(_PROBE)
                asked_at = now
            elif asked_at is not None and now - asked_at >= min(max(self.heartbeat_s / 2, _PONG_LEAST_S), _PONG_MOST_S):
                self.abort("the server does not answer")
                return
