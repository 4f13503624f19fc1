# SPDX-License-Identifier: MIT
"""One TCP connection: an asyncio protocol drives the sans-I/O WebSocket protocol.

A connection has no task, queue or timer of its own: the registry's one timer serves the deadlines
of all.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast
from uuid import UUID

from websockets.frames import CloseCode
from websockets.http11 import Request, Response
from websockets.protocol import CONNECTING, OPEN

from wsserver.transport.connection import Connection, Owner
from wsserver.transport.websocket_protocol import WebSocketProtocol

# Bytes per read: after each read of a flood, the other connections get their turn.
_READ_SIZE = 4096
_LINGER_S = 0.5
_CLOSE_REASON_BYTES = 123
_REQUEST_TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Acceptor(Owner, Protocol):
    """The acceptor, as a connection sees it before and after its request."""

    def opened(self, connection: WebSocketConnection) -> None: ...

    def stale(self) -> bool:
        """Whether what was just read may be old. The connection is then at its end."""

    def requested(self, connection: WebSocketConnection, request: Request) -> None:
        """Now or soon: call one of `connection.answer`, `turn_away` and `upgrade`, or start an
        event stream on it.
        """

    def throttled(self, connection: WebSocketConnection) -> None: ...


class WebSocketConnection(Connection, asyncio.BufferedProtocol):
    __slots__ = ("_asked", "protocol")

    _owner: Acceptor

    # Shared by all connections: each read is copied out before the next read of any connection.
    _buffer = memoryview(bytearray(_READ_SIZE))

    def __init__(self, owner: Acceptor, max_message_bytes: int) -> None:
        super().__init__(owner)
        self._asked = False  # a whole request arrived
        self.protocol = WebSocketProtocol(max_message_bytes)

    @property
    def id(self) -> UUID:
        return self.protocol.id

    # asyncio.BufferedProtocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._owner.opened(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._owner.stale():
            return
        self._receive(bytes(self._buffer[:nbytes]))

    def _receive(self, chunk: bytes) -> None:
        self.heard = True
        frames_before = self.protocol.frames
        received = self.protocol.receive(chunk)
        for item in received:
            if isinstance(item, Request):
                self._asked = True
                self._owner.requested(self, item)
            elif self.session is not None:
                self.session.receive(item)
        if self.session is not None and self.session.open:
            # The session counts the messages as it carries them out.
            self.session.charge(self.protocol.frames - frames_before - len(received), len(chunk))
        self._write_protocol()

    def eof_received(self) -> None:
        self.protocol.receive_eof()
        self._closing()  # the transport closes itself once the client has read the buffer

    def connection_lost(self, exc: Exception | None) -> None:
        if self.session is not None:
            self.session.close()
        self._owner.lost(self)
        self.session = None  # so that no cycle of references keeps the connection
        self.protocol.end()

    # ClientTransport, for the session.

    def hold_reading(self, hold: bool) -> None:
        if hold != self.holding and not self.transport.is_closing():
            self.holding = hold
            if hold:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def throttle(self) -> None:
        self._owner.throttled(self)

    # For the worker.

    @property
    def gone(self) -> bool:
        return self.transport.is_closing()

    def answer(self, response: Response) -> None:
        """Answer the request, and close."""
        if not self.gone:
            self.protocol.send_response(response)
            self._write_protocol()

    def turn_away(self, response: Response, why: str) -> None:
        """Answer 101, and close with 1008 at once."""
        if not self.gone:
            self.protocol.send_response(response)
            reason = why.encode()[:_CLOSE_REASON_BYTES].decode(errors="ignore")
            self.protocol.send_close(CloseCode.POLICY_VIOLATION, reason)
            self._write_protocol()

    def upgrade(self, response: Response) -> None:
        """Answer 101 and process the frames that arrived behind the request, for `session`."""
        self.protocol.send_response(response)
        self._write_protocol()
        self._receive(b"")

    def time_out(self) -> None:
        if self.protocol.state is CONNECTING:
            self.transport.write(_REQUEST_TIMEOUT)
        super().time_out()

    def ping(self) -> None:
        if self.protocol.state is OPEN:
            self.protocol.send_ping(b"")
            self._write_protocol()

    def close(self, code: int, reason: str) -> None:
        """Start the closing handshake."""
        if self.protocol.state is not OPEN or self.session is None:
            return
        self.session.flush()
        self.protocol.send_close(code, reason)
        self._write_protocol()

    @property
    def close_code(self) -> int:
        close = self.protocol.close_sent or self.protocol.close_rcvd
        return close.code if close else 1006

    @property
    def close_reason(self) -> str:
        close = self.protocol.close_sent or self.protocol.close_rcvd
        return close.reason if close else ""

    def _write_protocol(self) -> None:
        """Write the protocol's own frames: pongs and closes."""
        writes = self.protocol.data_to_send()
        if not writes:
            return
        if self.protocol.state is not OPEN and self.protocol.state is not CONNECTING:
            self._closing()
        for chunk in writes:
            if chunk:
                self.transport.write(chunk)
            elif self.protocol.close_rcvd is not None or (self.session is None and self._asked):
                # The server ends the TCP connection; close() sends the buffer first.
                self.transport.close()
            else:
                # The client broke the protocol and may still be sending. Closing now, or
                # half-closing through an edge, would reset the connection and lose the answer with
                # the reason.
                asyncio.get_running_loop().call_later(_LINGER_S, self.transport.close)

    def _closing(self) -> None:
        if self.session is not None and self.session.open:
            if self.protocol.close_rcvd is not None:
                self.session.finish()
            self.session.close()
            self.hold_reading(False)  # for the client's side of the closing handshake
            self._owner.closing(self)
