# SPDX-License-Identifier: MIT
"""Debian's nginx in front of workers, with the edge's own template: unprivileged, on loopback, with
TLS and HTTP/2 only if a test wants them.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from support.ports import free_port

_TEMPLATE = Path(__file__).parents[4] / "roles/nginx/templates/nginx.conf.j2"


class Edge:
    """`keepalive_s`: replaces the minute for which an HTTP/2 connection may take new requests."""

    keepalive_s = 1

    def __init__(self, *worker_ports: int, tls: bool = False, origins: Sequence[str] = ()) -> None:
        self.port = free_port()
        program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
        assert program is not None, "nginx is not installed, and these tests need it"
        self._directory = Path(tempfile.mkdtemp(prefix="ws-edge-"))
        user: dict[str, Any] = {}
        if os.getuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(self._directory, nobody.pw_uid, nobody.pw_gid)
            user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        configuration = self._directory / "nginx.conf"
        if tls:
            _self_signed(self._directory / "edge.pem", **user)
        http2 = _http2(program) if tls else ""
        configuration.write_text(self._configuration(worker_ports, tls, origins, http2))
        command = [program, "-e", "stderr", "-p", self._directory, "-c", configuration, "-g", "daemon off;"]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, **user)
        self._wait()

    def _configuration(self, worker_ports: Sequence[int], tls: bool, origins: Sequence[str], http2: str) -> str:
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
            nginx_workers=[f"127.0.0.1:{port}" for port in worker_ports],
            nginx_allowed_origins=list(origins),
            _nginx_backlog=511,
            _nginx_certificate_file="edge.pem",
            _nginx_down={},
            _nginx_http2=http2,
            _nginx_ipv6_is_there=False,
            _nginx_worker_connections=1024,
        )
        temporary = "".join(
            f"\n    {kind}_temp_path tmp-{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        for pattern, replacement in {
            r"keepalive_time 1m;": f"keepalive_time {self.keepalive_s}s;",
            r"^user .*": "",
            r"/run/nginx\.pid": "nginx.pid",
            r"/var/log/nginx/error\.log": "stderr",
            r"/var/log/nginx/access\.log": "access.log",
            r"^http \{": "http {" + temporary,
            **({} if tls else {r"^    ssl_certificate(_key)? .*\n": ""}),
            r"listen 443 ssl": f"listen 127.0.0.1:{self.port}{' ssl' if tls else ''}",
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

    def reload(self) -> None:
        """Start processes with the same configuration. The present ones end with their clients."""
        self._process.send_signal(signal.SIGHUP)

    def processes(self) -> set[int]:
        """The processes that serve clients."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        return {int(pid) for pid in children.split()}

    def remove(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        shutil.rmtree(self._directory)


def _self_signed(path: Path, **user: Any) -> None:
    """A certificate for 127.0.0.1 and its key, in one file."""
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    command += ["-subj", "/CN=edge", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "-", "-out", "-"]
    made = subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True, **user)
    path.write_bytes(made.stdout)


def _http2(program: str) -> str:
    """Where this nginx takes the setting; the role's vars/main.yml chooses in the same way."""
    shown = subprocess.run([program, "-v"], check=True, capture_output=True, text=True).stderr
    version = re.search(r"nginx/(\d+)\.(\d+)\.(\d+)", shown)
    assert version is not None, shown
    return "server" if tuple(map(int, version.groups())) >= (1, 25, 1) else "port"
