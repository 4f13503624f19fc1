# SPDX-License-Identifier: MIT
"""Debian's nginx in front of one worker, with the edge's own template: unprivileged, on loopback,
without TLS.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from support.ports import free_port

_TEMPLATE = Path(__file__).parents[4] / "roles/nginx/templates/nginx.conf.j2"


class Edge:
    def __init__(self, worker_port: int) -> None:
        self.port = free_port()
        self._directory = Path(tempfile.mkdtemp(prefix="ws-edge-"))
        user: dict[str, Any] = {}
        if os.getuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(self._directory, nobody.pw_uid, nobody.pw_gid)
            user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        configuration = self._directory / "nginx.conf"
        configuration.write_text(self._configuration(worker_port))
        program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
        assert program is not None, "nginx is not installed, and these tests need it"
        command = [program, "-e", "stderr", "-p", self._directory, "-c", configuration, "-g", "daemon off;"]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, **user)
        self._wait()

    def _configuration(self, worker_port: int) -> str:
        environment = Environment(undefined=StrictUndefined, autoescape=False)
        environment.filters["bool"] = bool  # Ansible's
        environment.filters["selfhost.websocket.url_host"] = str  # it changes only IPv6 addresses
        template = environment.from_string(_TEMPLATE.read_text())
        configuration = template.render(
            ansible_managed="",
            nginx_api_workers=[],
            nginx_status=False,
            nginx_grafana=False,
            nginx_keep_sites=False,
            nginx_balance="least_conn",
            nginx_domain="localhost",
            nginx_worker_shutdown_timeout="1h",
            nginx_workers=[f"127.0.0.1:{worker_port}"],
            _nginx_backlog=511,
            _nginx_certificate_file="",
            _nginx_down={},
            _nginx_ipv6_is_there=False,
            _nginx_worker_connections=1024,
        )
        temporary = "".join(
            f"\n    {kind}_temp_path tmp-{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        for pattern, replacement in {
            r"^user .*": "",
            r"/run/nginx\.pid": "nginx.pid",
            r"/var/log/nginx/error\.log": "stderr",
            r"/var/log/nginx/access\.log": "access.log",
            r"^http \{": "http {" + temporary,
            r"^    ssl_certificate(_key)? .*\n": "",
            r"listen 443 ssl": f"listen 127.0.0.1:{self.port}",
            r"listen 80 ": f"listen 127.0.0.1:{free_port()} ",
        }.items():
            configuration, count = re.subn(pattern, replacement, configuration, flags=re.MULTILINE)
            assert count, f"the edge's template has changed: no {pattern}"
        return configuration

    def _wait(self) -> None:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
            except ConnectionRefusedError:
                assert self._process.poll() is None, "nginx stopped"
                assert time.monotonic() < deadline, "nginx does not listen"
                time.sleep(0.02)
            else:
                return

    def remove(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        shutil.rmtree(self._directory)
