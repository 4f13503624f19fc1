# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""A simple server on the `websockets` library's asyncio server (plain_server.py)."""

from __future__ import annotations

import sys
from pathlib import Path

from websockets.version import version
from wsserver.auth import mint

from bench.generator import PROTOCOL_PING, Step, payload, text_frame, upgrade
from bench.peers import HEARTBEAT_S, SIGNING_KEY, Node, Place
from bench.process import Service, free_port


class Plain:
    name = "websockets"
    auth = "JWT (HS256) in a header"
    ping = PROTOCOL_PING
    across_workers: str | None = None

    def version(self) -> str:
        return version

    def start(self, place: Place, workers: int = 1) -> list[Node]:
        port = free_port()
        command = [sys.executable, Path(__file__).parent / "plain_server.py", port, HEARTBEAT_S]
        node = Node(
            Service(command, place.cores.server, place.directory / "websockets.log", {"JWT_SECRET": SIGNING_KEY}), port
        )
        node.service.await_port(port)
        return [node]

    def connect_steps(self, number: int, room: str) -> list[Step]:
        token = mint(SIGNING_KEY, f"user{number}", 86400)
        return [Step(upgrade("/", f"Authorization: Bearer {token}"), b"\r\n\r\n")]

    def join_steps(self, number: int, room: str) -> list[Step]:
        return [Step(text_frame(b'{"type":"join","room":"%s"}' % room.encode()), b'"joined"')]

    def publish(self, room: str, number: int) -> bytes:
        return text_frame(b'{"type":"publish","room":"%s","data":%s}' % (room.encode(), payload(number)))
