# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""A real nginx on loopback, with its own prefix and the role's upstream ws."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from program import eventually
from support.ports import free_port


class Edge:
    """An edge whose upstream has `servers`. One of them answers requests to `port`."""

    def __init__(self, directory: Path, *servers: str) -> None:
        self.port = free_port()
        self.path = directory / "nginx.conf"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.write(*(servers or ("127.0.0.1:7", "127.0.0.2:7", "127.0.0.2:9")))

    def write(self, *servers: str) -> None:
        lines = "\n".join(f"        server {server} max_fails=0;" for server in servers)
        temporary = "\n".join(
            f"    {kind}_temp_path {self._directory}/tmp-{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        self.path.write_text(f"""\
pid {self._directory}/nginx.pid;
error_log {self._directory}/error.log notice;
worker_processes 2;
events {{
    worker_connections 64;
}}
http {{
{temporary}
    access_log off;
    upstream ws {{
        zone ws 64k;
        least_conn;
{lines}
        keepalive 64;
    }}
    server {{
        listen 127.0.0.1:{self.port};
        add_header Tried $upstream_addr always;
        location / {{
            proxy_pass http://ws;
            proxy_connect_timeout 1s;
        }}
        location = /slow {{
            limit_rate 10;
            return 200 "{"x" * 1000}";
        }}
    }}
}}
""")

    def start(self) -> None:
        program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
        assert program is not None, "nginx is not installed, and these tests need it"
        command = [program, "-e", "stderr", "-c", self.path, "-g", "daemon off;"]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        eventually(self.serves, "nginx serves")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    def serves(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def request(self) -> tuple[int, list[str]]:
        """The status of a request to the upstream, and the servers that nginx tried."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=60) as answer:
                return answer.status, answer.headers["Tried"].split(", ")
        except urllib.error.HTTPError as error:
            return error.code, error.headers["Tried"].split(", ")

    def slow_client(self) -> socket.socket:
        """A client whose answer takes longer than any test, so that its nginx process lingers after
        a reload.
        """
        client = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(10)
        return client
