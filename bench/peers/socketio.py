# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""socket.io on Node with its Redis adapter, over WebSocket only."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from wsserver.auth import mint

from bench.generator import Step, payload, text_frame, upgrade
from bench.peers import HEARTBEAT_S, SIGNING_KEY, Node, Place, command_output
from bench.process import Service, free_port

_SOURCE = Path(__file__).parent / "node"
# install.sh puts the packages here. A module finds them only from the same directory.
_INSTALLED = Path(__file__).parents[2] / ".lab/bench/node"


class SocketIo:
    name = "socket.io"
    auth = "JWT (HS256) in a middleware"
    ping = (b"\x81\x012", text_frame(b"3"))
    across_workers: str | None = "Redis"

    def version(self) -> str:
        packages = json.loads((_SOURCE / "package-lock.json").read_text())["packages"]
        own, adapter = (
            packages[f"node_modules/{name}"]["version"] for name in ("socket.io", "@socket.io/redis-adapter")
        )
        return f"{own} with redis-adapter {adapter} on Node {command_output('node', '--version')}"

    def start(self, place: Place, workers: int = 1) -> list[Node]:
        program = shutil.copy(_SOURCE / "server.mjs", _INSTALLED)
        nodes = []
        for _worker in range(workers):
            port = free_port()
            settings = {
                "PORT": str(port),
                "REDIS_SOCKET": place.redis_url.removeprefix("unix://"),
                "JWT_SECRET": SIGNING_KEY,
                "HEARTBEAT_MS": str(HEARTBEAT_S * 1000),
                "NODE_ENV": "production",
            }
            log = place.directory / "socket.io.log"
            nodes.append(Node(Service(["node", program], place.cores.server, log, settings), port))
        for node in nodes:
            node.service.await_port(node.port)
        return nodes

    def connect_steps(self, number: int, room: str) -> list[Step]:
        token = mint(SIGNING_KEY, f"user{number}", 86400)
        return [
            Step(upgrade("/socket.io/?EIO=4&transport=websocket"), b'0{"sid"'),
            Step(text_frame(b'40{"token":"%s"}' % token.encode()), b'40{"sid"'),
        ]

    def join_steps(self, number: int, room: str) -> list[Step]:
        return [Step(text_frame(b'420["join","%s"]' % room.encode()), b"430[]")]

    def publish(self, room: str, number: int) -> bytes:
        return text_frame(b'42["publish","%s",%s]' % (room.encode(), payload(number)))
