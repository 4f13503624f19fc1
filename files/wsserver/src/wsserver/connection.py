# SPDX-License-Identifier: MIT
"""One TCP connection: the sans-I/O wire driven by an asyncio protocol, without a task, queue or timer of its own.

`sweep` does for all connections what a timer would do for each.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from websockets.frames import CloseCode
from websockets.http11 import Request, Response
from websockets.protocol import CONNECTING, OPEN

from wsserver.session import Session
from wsserver.wire import Wire


class Owner(Protocol):
    """The server, as a connection sees it."""

    def requested(self, connection: Connection, request: Request) -> None:
        """Call `connection.answer(request)`, now or soon."""

    def respond(self, connection: Connection, request: Request) -> Response:
        """The HTTP answer; status 101 after `connection.session` was set."""

    def opened(self, connection: Connection) -> None: ...
    def connected(self, connection: Connection) -> None: ...
    def closing(self, connection: Connection) -> None: ...
    def lost(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    __slots__ = ("_owner", "heard", "holding", "opened_at", "remote", "session", "transport", "wire")

    def __init__(self, owner: Owner, max_message_bytes: int) -> None:
        self._owner = owner
        self.wire = Wire(max_message_bytes)
        self.session: Session | None = None
        self.heard = True  # since the last heartbeat
        self.opened_at = asyncio.get_running_loop().time()
        self.remote = ""
        self.holding = False  # not reading from the client

    # asyncio.Protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        self.heard = True
        for received in self.wire.receive(data):
            if isinstance(received, Request):
                self._owner.requested(self, received)
            elif self.session is not None:
                self.session.receive(received)
        self._write_wire()

    def eof_received(self) -> None:
        self.wire.receive_eof()
        self._closing()  # the transport closes by itself, but not before the client has read what is buffered

    def pause_writing(self) -> None:
        if self.session is not None:
            self.session.pause()

    def resume_writing(self) -> None:
        self.heard = True  # the last ping may have waited in the buffer; the next one counts
        if self.session is not None:
            self.session.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.session is not None:
            self.session.close()
        self._owner.lost(self)

    # Outlet of the session.

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def hold_reading(self, hold: bool) -> None:
        if hold != self.holding and not self.transport.is_closing():
            self.holding = hold
            if hold:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    # The server's side.

    def answer(self, request: Request) -> None:
        if self.transport.is_closing():
            return
        response = self._owner.respond(self, request)
        self.wire.send_response(response)
        self._write_wire()
        if response.status_code == 101:
            self._owner.connected(self)
            self.data_received(b"")  # what came behind the request

    def ping(self) -> None:
        if self.wire.state is OPEN:
            self.wire.send_ping(b"")
            self._write_wire()

    def close(self, code: CloseCode, reason: str) -> None:
        """Start the closing handshake, after everything that is queued for the client."""
        if self.wire.state is not OPEN or self.session is None:
            return
        self.session.flush()
        self.wire.send_close(code, reason)
        self._write_wire()

    def abort(self) -> None:
        self.transport.abort()

    def _write_wire(self) -> None:
        """Write what the protocol itself has to say."""
        writes = self.wire.data_to_send()
        if not writes:
            return
        if self.wire.state is not OPEN and self.wire.state is not CONNECTING:
            self._closing()
        for data in writes:
            if data:
                self.transport.write(data)
            elif self.session is None or self.wire.close_rcvd is not None:
                # A server ends the TCP connection itself; close() sends what is buffered first.
                self.transport.close()
            else:
                # The client broke the protocol and may still be sending: closing with its data unread
                # would reset the connection, and the close frame that says why would be lost.
                self.transport.write_eof()

    def _closing(self) -> None:
        if self.session is not None and self.session.open:
            self.session.close()
            self.hold_reading(False)  # for the client's side of the closing handshake
            self._owner.closing(self)
