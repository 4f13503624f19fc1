# SPDX-License-Identifier: MIT
"""WebSocket frames as bytes: those of a client, which are masked, and those of a server."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from websockets.frames import Frame, Opcode


class Received(NamedTuple):
    opcode: Opcode
    data: bytes

    @property
    def event(self) -> Any:
        return json.loads(self.data)


def client_frame(opcode: Opcode, data: bytes, fin: bool = True, mask: bool = True) -> bytes:
    return bytes(Frame(opcode, data, fin).serialize(mask=mask))


def text(data: bytes | str, fin: bool = True) -> bytes:
    return client_frame(Opcode.TEXT, data.encode() if isinstance(data, str) else data, fin)


def server_frames(data: bytes) -> list[Received]:
    """The unmasked, unfragmented frames that a server wrote, all of them complete."""
    frames = []
    while data:
        assert data[0] & 0x80, "fragmented"
        assert not data[1] & 0x80, "masked"
        length, start = data[1] & 0x7F, 2
        if length >= 126:
            start += 2 if length == 126 else 8
            length = int.from_bytes(data[2:start], "big")
        assert len(data) >= start + length, "truncated"
        frames.append(Received(Opcode(data[0] & 0x0F), data[start : start + length]))
        data = data[start + length :]
    return frames


def upgrade_request(path: str = "/ws", **headers: str | None) -> bytes:
    """A handshake; `headers` in Python spelling add to it, replace or (None) leave out."""
    every: dict[str, str | None] = {
        "Host": "example.org",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec_WebSocket_Version": "13",
        **headers,
    }
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in every.items() if value is not None]
    return "\r\n".join([f"GET {path} HTTP/1.1", *lines, "", ""]).encode("latin-1")
