# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""This project's worker as deployed: Redis, archive, presence, tokens, and higher limits."""

from __future__ import annotations

import asyncio
import sys
import time
from http.client import HTTPConnection
from pathlib import Path

from wsserver import __version__
from wsserver.archive.migrate import migrate
from wsserver.auth import mint

from bench.generator import PROTOCOL_PING, Step, payload, text_frame, upgrade
from bench.peers import HEARTBEAT_S, SIGNING_KEY, Node, Place
from bench.process import Service, free_port

_SOURCE = Path(__file__).parents[2] / "files/wsserver/src"
_LIMITS = {
    "WS_MESSAGES_PER_S": "100000",
    "WS_BYTES_PER_S": str(2**30),
    "WS_USER_MESSAGES_PER_S": "1000000",
    "WS_USER_BYTES_PER_S": str(2**30),
    "WS_USER_QUERIES_PER_S": "1000000",
    "WS_MAX_CONNECTIONS": "1000000",
    "WS_MAX_CONNECTIONS_PER_IP": "1000000",
    "WS_IP_REFUSALS_PER_S": "100000",
}


class WsServer:
    name = "ws-server"
    auth = "JWT (HS256) in a header"
    ping = PROTOCOL_PING
    across_workers: str | None = "Redis"

    def version(self) -> str:
        return __version__

    def start(self, place: Place, workers: int = 1) -> list[Node]:
        asyncio.run(migrate(place.postgres_dsn))
        nodes = []
        for worker in range(workers):
            port, api_port = free_port(), free_port()
            settings = {
                "PYTHONPATH": str(_SOURCE),
                "PORT": str(port),
                "WS_API_PORT": str(api_port),
                "WS_INSTANCE": str(worker),
                "WS_REDIS_URL": place.redis_url,
                "WS_POSTGRES_DSN": place.postgres_dsn,
                "WS_JWT_SECRET": SIGNING_KEY,
                "WS_API_KEY": SIGNING_KEY,
                "WS_HEARTBEAT_S": str(HEARTBEAT_S),
                **_LIMITS,
            }
            command = [sys.executable, "-m", "wsserver", "serve"]
            service = Service(command, place.cores.server, place.directory / "ws-server.log", settings)
            nodes.append(Node(service, port, api_port))
        for node in nodes:
            node.service.await_port(node.port)
            _await_ready(node.port)
        return nodes

    def connect_steps(self, number: int, room: str) -> list[Step]:
        token = mint(SIGNING_KEY, f"user{number}", 86400)
        return [Step(upgrade("/ws", f"Authorization: Bearer {token}"), b'"type":"welcome"')]

    def join_steps(self, number: int, room: str) -> list[Step]:
        return [Step(text_frame(b'{"type":"join","room":"%s"}' % room.encode()), b'"type":"joined"')]

    def publish(self, room: str, number: int) -> bytes:
        publish = b'{"type":"publish","room":"%s","id":"%d","data":%s}'
        return text_frame(publish % (room.encode(), number, payload(number)))


def _await_ready(port: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        connection = HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        why = answer.read().decode()
        connection.close()
        if answer.status == 200:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"ws-server is not ready: {why}")
        time.sleep(0.05)
