# SPDX-License-Identifier: MIT
"""Server-sent events: one room read over plain HTTP, for clients that cannot or need not speak
WebSocket.

SSE is a second protocol over the same session and hub: `SseCodec` replaces the JSON frames,
`EventStream` replaces `WebSocketConnection`. SSE has no commands; each event's id is the position
to resume from.
"""

from __future__ import annotations

import asyncio
from uuid import UUID

import msgspec

from wsserver.transport.connection import Connection, Owner
from wsserver.transport.websocket import WebSocketConnection

_HEAD = (
    b"HTTP/1.1 200 OK\r\n"
    b"Content-Type: text/event-stream; charset=utf-8\r\n"
    b"Cache-Control: no-store\r\n"
    b"X-Accel-Buffering: no\r\n"
    b"Connection: close\r\n"
)


class EventStream(Connection, asyncio.Protocol):
    """Takes over a connection whose request for events was granted."""

    __slots__ = ("_close_code", "_close_reason", "_id")

    def __init__(self, owner: Owner, connection: WebSocketConnection) -> None:
        super().__init__(owner)
        self._id = connection.id
        self._close_code = 1006
        self._close_reason = ""
        self.transport = connection.transport
        self.remote = connection.remote
        self.opened_at = connection.opened_at
        # Reading stays paused: a full send buffer reveals a lost client, not its silence.
        self.holding = True
        connection.protocol.end()

    def start(self, origin: str | None) -> None:
        """Answer the request, and write events.

        `origin`: the allowed origin of the requesting page; the page may then read the answer.
        """
        self.transport.set_protocol(self)
        headers = [_HEAD]
        if origin is not None:
            headers.append(b"Access-Control-Allow-Origin: %s\r\n" % origin.encode())
            headers.append(b"Access-Control-Allow-Credentials: true\r\nVary: Origin\r\n")
        self.transport.write(b"".join([*headers, b"\r\n"]))

    # asyncio.Protocol.

    def data_received(self, data: bytes) -> None:
        """SSE is one-way: ignore anything the client sends."""

    def connection_lost(self, exc: Exception | None) -> None:
        if self.session is not None:
            self.session.close()
        self._owner.lost(self)
        self.session = None  # so that no cycle of references keeps the stream

    # ClientTransport, for the session.

    def hold_reading(self, hold: bool) -> None:
        """Nothing is read."""

    def throttle(self) -> None:
        """Nothing is read."""

    # For the worker.

    @property
    def id(self) -> UUID:
        return self._id

    @property
    def close_code(self) -> int:
        return self._close_code

    @property
    def close_reason(self) -> str:
        return self._close_reason

    def ping(self) -> None:
        self.transport.write(b":\n\n")

    def close(self, code: int, reason: str) -> None:
        if self.session is None or not self.session.open:
            return
        self._close_code, self._close_reason = int(code), reason
        self.session.flush()
        self.transport.write(b"event: closed\ndata: " + msgspec.json.encode({"code": int(code), "reason": reason}))
        self.transport.write(b"\n\n")
        self.session.close()
        self.transport.close()
        self._owner.closing(self)
