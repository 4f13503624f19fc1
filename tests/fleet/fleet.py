# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""A deployed fleet, as operators and clients reach it: over SSH, Ansible and wss://."""

from __future__ import annotations

import json
import os
import re
import shlex
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import jwt
from wsserver.client import CredentialFactory
from wsserver.witness import from_secret

ROOT = Path(__file__).parents[2]

# A backend on the host: sends a request to the server API, and prints the status and the answer.
BACKEND = """
import json, sys, urllib.error, urllib.request
method, url, headers, body = json.loads(sys.argv[1])
request = urllib.request.Request(url, body and body.encode(), headers, method=method)
try:
    answer = urllib.request.urlopen(request, timeout=60)
except urllib.error.HTTPError as error:
    answer = error
print(json.dumps([answer.status, json.load(answer)]))
"""


class Fleet:
    """The fleet of a status file from `make status`. Its inventory is beside that file."""

    def __init__(self, status_file: Path) -> None:
        status = json.loads(status_file.read_text())
        self.hosts: dict[str, dict[str, Any]] = status["hosts"]
        self.ca_file: str = status["ca_file"]
        self.trust = ssl.create_default_context(cafile=self.ca_file)
        self._ssh_key: str = status["ssh_key"]
        self.inventory = status_file.parent / "inventory"
        # One connection to each host for all commands, which ssh ends a minute after the last one.
        self._ssh_control = Path(tempfile.mkdtemp(prefix="ws-fleet-")) / "%h"
        self.edges = self._group("ws_edge")
        self.worker_hosts = self._group("ws_workers")
        [self.redis_host] = self._group("ws_redis")
        [self.postgres_host] = self._group("ws_postgres")
        # The hosts of Prometheus and Alertmanager, if any.
        self.observability: dict[str, str] | None = status.get("observability")
        # One host of each kind, for tests that need only one.
        self.edge, self.worker_host = self.edges[0], self.worker_hosts[0]
        self.url = self.url_of(self.edge)

    def _group(self, group: str) -> list[str]:
        return [host for host, facts in self.hosts.items() if group in facts["groups"]]

    def address(self, host: str) -> str:
        return str(self.hosts[host]["address"])

    def url_of(self, edge: str) -> str:
        return f"wss://{self.address(edge)}/ws"

    # As the operator.

    def command(self, host: str, command: str) -> list[str]:
        """The program and arguments that run a shell command as root on a host."""
        options = ["-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
        options += ["-o", "LogLevel=ERROR", "-o", "ConnectTimeout=5", "-o", "BatchMode=yes"]
        options += ["-o", "ControlMaster=auto", "-o", "ControlPersist=60", "-o", f"ControlPath={self._ssh_control}"]
        return ["ssh", "-i", self._ssh_key, *options, f"root@{self.address(host)}", command]

    def ssh(self, host: str, command: str, check: bool = True) -> str:
        """Run a shell command as root, and return its standard output."""
        done = subprocess.run(
            self.command(host, command),
            check=False,
            stdin=subprocess.DEVNULL,  # ssh makes its stdin non-blocking, which Ansible refuses
            capture_output=True,
            text=True,
            timeout=120,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{host}: {command!r} failed ({done.returncode}): {done.stderr}{done.stdout}")
        return done.stdout

    def playing(self, playbook: str, *arguments: str, inventory: Path | None = None) -> subprocess.Popen[str]:
        """Start a playbook against the fleet, with a pipe that names each task as it begins."""
        settings = {
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_FORCE_COLOR": "0",
            "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "1",  # otherwise, a task is named only at its end
        }
        return subprocess.Popen(
            ["ansible-playbook", "-i", inventory or self.inventory, f"playbooks/{playbook}", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env=os.environ | settings,
        )

    def play(
        self, *arguments: str, playbook: str = "site.yml", fails: bool = False, inventory: Path | None = None
    ) -> str:
        """Run a playbook against the fleet, and return its output with the recap."""
        run = self.playing(playbook, *arguments, inventory=inventory)
        said, _none = run.communicate()
        assert (run.returncode != 0) == fails, said[-8000:]
        return said

    @cached_property
    def api_key(self) -> str:
        return self._setting("WS_API_KEY")

    @cached_property
    def jwt_secret(self) -> str:
        return self._setting("WS_JWT_SECRET")

    def token(self, user: str) -> str:
        """A token, signed as by an application's backend."""
        return jwt.encode({"sub": user, "exp": time.time() + 3600}, self.jwt_secret, "HS256")

    def credentials(self, user: str) -> CredentialFactory:
        """Credentials for a witness."""
        return from_secret(self.jwt_secret)(user)

    def _setting(self, name: str) -> str:
        return self.ssh(self.worker_host, f". /etc/ws-server/env; echo ${name}").strip()

    def api(
        self, method: str, path: str, body: Any = None, port: int = 9079, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """The server API's status and answer to a backend on a worker's host.

        The request has the key, unless `headers` are given.
        """
        if headers is None:
            headers = {"Authorization": f"Bearer {self.api_key}"}
        request = [method, f"http://127.0.0.1:{port}{path}", headers, body if body is None else json.dumps(body)]
        command = f"python3 -c {shlex.quote(BACKEND)} {shlex.quote(json.dumps(request))}"
        status, answer = json.loads(self.ssh(self.worker_host, command))
        return status, answer

    # The state of the workers.

    def instances(self, host: str | None = None) -> list[str]:
        """The instances that are up on a host, such as ["80", "81"]."""
        listing = self.ssh(
            host or self.worker_host, "systemctl list-units --plain --no-legend --state=active 'ws-server@*'"
        )
        return sorted(line.split("@")[1].split(".")[0] for line in listing.splitlines())

    def pid(self, instance: str, host: str | None = None) -> int:
        show = f"systemctl show --property=MainPID --value ws-server@{instance}"
        return int(self.ssh(host or self.worker_host, show))

    def journal(self, event: str, since: float) -> list[dict[str, Any]]:
        """The log lines of all workers about one event since a Unix time."""
        command = f"journalctl --unit 'ws-server@*' --output cat --since @{int(since)} --grep '\"event\":\"{event}\"'"
        lines = [line for host in self.worker_hosts for line in self.ssh(host, command, check=False).splitlines()]
        return [json.loads(line) for line in lines if line.startswith("{")]

    def ready(self, instance: str, host: str | None = None) -> bool:
        """Whether the worker reports that it is ready, asked on its own host."""
        return " 200 " in self._get(host or self.worker_host, instance, "/readyz").partition("\n")[0]

    def whole(self) -> bool:
        """Whether every instance of every host is ready."""
        return all(
            self.ready(instance, host)
            for host in self.worker_hosts
            for instance in self.ssh(host, "ls /opt/ws-server/instances").split()
        )

    def metric(self, sample: str) -> float:
        """The sum of a metric over all workers."""
        workers = [(host, instance) for host in self.worker_hosts for instance in self.instances(host)]
        lines = [line for worker in workers for line in self._get(*worker, "/metrics").splitlines()]
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{sample} "))

    def edge_metrics(self) -> dict[str, float]:
        """The metrics of the first edge's watcher."""
        ask = "exec 3<>/dev/tcp/127.0.0.1/9145; printf 'GET /metrics HTTP/1.1\\r\\n\\r\\n' >&3; cat <&3"
        body = self.ssh(self.edge, f"bash -c {json.dumps(ask)}").partition("\n\n")[2].splitlines()
        samples = [line.rpartition(" ") for line in body if line and not line.startswith("#")]
        return {name: float(value) for name, _space, value in samples}

    def _get(self, host: str, instance: str, path: str) -> str:
        """A worker's answer on its own host, or an empty text without an answer."""
        connect = f". /etc/ws-server/env; exec 3<>/dev/tcp/${{WS_LISTEN_ADDRESS%%,*}}/80{instance}"
        ask = f"printf 'GET {path} HTTP/1.1\\r\\n\\r\\n' >&3; cat <&3"
        return self.ssh(host, f"{connect}; {ask}", check=False)


def changed(output: str) -> list[str]:
    """The tasks that reported a change."""
    tasks = re.split(r"^(?:TASK|RUNNING HANDLER) \[", output, flags=re.MULTILINE)[1:]
    return [task.split("]")[0] for task in tasks if re.search(r"^changed:", task, re.MULTILINE)]


def eventually(condition: Callable[[], bool], within: float, what: str, every: float = 0.1) -> float:
    """Wait until `condition` holds, and return the seconds. Fails after `within` seconds."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < within, f"not within {within} s: {what}"
        time.sleep(every)
    return time.monotonic() - start
