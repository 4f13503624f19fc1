# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""nats-server with its WebSocket listener: subjects are the rooms.

Core NATS, so at most once and without a log.
"""

from __future__ import annotations

from bench.generator import Step, binary_frame, payload, upgrade
from bench.peers import HEARTBEAT_S, SIGNING_KEY, Node, Place, command_output
from bench.process import Service, free_port

_CONFIGURATION = """
host: 127.0.0.1
port: {port}
websocket {{ host: 127.0.0.1, port: {websocket_port}, no_tls: true, compression: false }}
cluster {{ name: bench, host: 127.0.0.1, port: {cluster_port}, routes: [{routes}] }}
authorization {{ token: "{token}" }}
ping_interval: "{heartbeat_s}s"
max_connections: 1000000
"""


class Nats:
    name = "nats-server"
    auth = "a shared token in CONNECT"
    ping = (b"PING\r\n", binary_frame(b"PONG\r\n"))
    across_workers: str | None = "a cluster of two"

    def version(self) -> str:
        return command_output("nats-server", "--version").removeprefix("nats-server: v")

    def start(self, place: Place, workers: int = 1) -> list[Node]:
        clusters = [free_port() for _worker in range(workers)]
        nodes = []
        for worker in range(workers):
            port = free_port()
            file = place.directory / f"nats-{worker}.conf"
            routes = ", ".join(f'"nats://127.0.0.1:{other}"' for other in clusters if other != clusters[worker])
            file.write_text(
                _CONFIGURATION.format(
                    port=free_port(),
                    websocket_port=port,
                    cluster_port=clusters[worker],
                    routes=routes,
                    token=SIGNING_KEY,
                    heartbeat_s=HEARTBEAT_S,
                )
            )
            command = ["nats-server", "--config", file]
            nodes.append(Node(Service(command, place.cores.server, place.directory / "nats.log"), port))
        for node in nodes:
            node.service.await_port(node.port)
        return nodes

    def connect_steps(self, number: int, room: str) -> list[Step]:
        connect = b'CONNECT {"verbose":false,"pedantic":false,"auth_token":"%s"}\r\nPING\r\n' % SIGNING_KEY.encode()
        return [Step(upgrade("/"), b"INFO "), Step(binary_frame(connect), b"PONG\r\n")]

    def join_steps(self, number: int, room: str) -> list[Step]:
        return [Step(binary_frame(b"SUB %s 1\r\nPING\r\n" % room.encode()), b"PONG\r\n")]

    def publish(self, room: str, number: int) -> bytes:
        data = payload(number)
        return binary_frame(b"PUB %s %d\r\n%s\r\n" % (room.encode(), len(data), data))
