# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""nchan in nginx, one worker process: channels are the rooms, with messages kept in memory."""

from __future__ import annotations

import resource

from bench.generator import PROTOCOL_PING, Step, payload, text_frame, upgrade
from bench.peers import HEARTBEAT_S, Node, Place, command_output
from bench.process import Service, free_port

_CONFIGURATION = """
load_module /usr/lib/nginx/modules/ngx_nchan_module.so;
daemon off;
user root;
worker_processes 1;
worker_rlimit_nofile {files};
error_log {directory}/nchan.log warn;
pid {directory}/nchan.pid;
events {{ worker_connections {files}; }}
http {{
    access_log off;
    client_body_temp_path {directory}/nchan-body;
    proxy_temp_path {directory}/nchan-proxy;
    fastcgi_temp_path {directory}/nchan-fastcgi;
    uwsgi_temp_path {directory}/nchan-uwsgi;
    scgi_temp_path {directory}/nchan-scgi;
    nchan_shared_memory_size 512M;
    server {{
        listen 127.0.0.1:{port} backlog=65535;
        location ~ ^/room/(.+)$ {{
            nchan_pubsub websocket;
            nchan_channel_id $1;
            nchan_subscriber_first_message newest;
            nchan_message_buffer_length 1000;
            nchan_websocket_ping_interval {heartbeat_s}s;
        }}
    }}
}}
"""


class Nchan:
    name = "nchan"
    auth = "none (it has none of its own)"
    ping = PROTOCOL_PING
    across_workers: str | None = None

    def version(self) -> str:
        nginx = command_output("nginx", "-v").rpartition("/")[2]
        module = command_output("dpkg-query", "-W", "-f", "${Version}", "libnginx-mod-nchan")
        return f"{module} in nginx {nginx}"

    def start(self, place: Place, workers: int = 1) -> list[Node]:
        port = free_port()
        file = place.directory / "nchan.conf"
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        file.write_text(
            _CONFIGURATION.format(directory=place.directory, port=port, files=limit, heartbeat_s=HEARTBEAT_S)
        )
        command = ["nginx", "-c", file, "-e", place.directory / "nchan.log"]
        node = Node(Service(command, place.cores.server, place.directory / "nchan.log"), port)
        node.service.await_port(port)
        return [node]

    def connect_steps(self, number: int, room: str) -> list[Step]:
        return [Step(upgrade(f"/room/{room}"), b"\r\n\r\n")]

    def join_steps(self, number: int, room: str) -> list[Step]:
        return []  # the URL names the room

    def publish(self, room: str, number: int) -> bytes:
        return text_frame(payload(number))
