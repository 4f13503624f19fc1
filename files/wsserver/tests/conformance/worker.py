# SPDX-License-Identifier: MIT
"""A worker for Autobahn's cases: `python -m conformance.worker [echo]`, with settings as for
`ws-server serve`.

Autobahn sends no token, so this worker adds one to every request. With `echo`, its codec sends
messages back. Binary frames, which a worker refuses, go back as they came.
"""

from __future__ import annotations

import sys

from msgspec import Raw
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import CONNECTING, OPEN
from websockets.server import ServerProtocol

from wsserver import cli
from wsserver.auth import mint
from wsserver.protocol.commands import Command, Ping
from wsserver.protocol.events import Event, Pong
from wsserver.protocol.json_codec import JsonCodec, text_frame
from wsserver.settings import load
from wsserver.transport.websocket_protocol import WebSocketProtocol


def let_in() -> None:
    real = WebSocketProtocol.receive
    secret = load().jwt_secret
    assert secret is not None
    header = f"\r\nAuthorization: Bearer {mint(secret.get_secret_value(), 'autobahn', 3600)}\r\n".encode()

    def receive(self: WebSocketProtocol, data: bytes) -> list[Request | bytes]:
        if self.state is CONNECTING:
            data = data.replace(b"\r\n", header, 1)
        return real(self, data)

    WebSocketProtocol.receive = receive  # type: ignore[method-assign]


def echo_text() -> None:
    """Patch the codec: every message is a ping, and every answer its pong."""

    def decode(self: JsonCodec, payload: bytes) -> Command:
        return Ping(Raw(payload))

    def frame(self: JsonCodec, event: Event, *_position: object) -> bytes:
        return text_frame(bytes(event.t)) if isinstance(event, Pong) else b""  # Autobahn expects no welcome

    JsonCodec.decode, JsonCodec.frame = decode, frame  # type: ignore[method-assign]


def echo_binary() -> None:
    real = WebSocketProtocol.recv_frame

    def recv_frame(self: WebSocketProtocol, frame: Frame) -> None:
        if frame.opcode is Opcode.BINARY or (frame.opcode is Opcode.CONT and vars(self).get("in_binary")):
            ServerProtocol.recv_frame(self, frame)  # the library's own checks
            self.events.pop()
            vars(self)["in_binary"] = not frame.fin
            if self.state is OPEN:
                self.send_frame(frame)
        else:
            real(self, frame)

    WebSocketProtocol.recv_frame = recv_frame  # type: ignore[method-assign]


if __name__ == "__main__":
    let_in()
    if sys.argv[1:] == ["echo"]:
        echo_text()
        echo_binary()
    sys.argv[1:] = ["serve"]
    sys.exit(cli.main())
