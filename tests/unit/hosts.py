# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""A host for the modules: real workers in real processes, and a fake systemctl."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import pathlib
import socket
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from support.worker import SECRET, Worker
from websockets.sync.client import ClientConnection, connect
from wsserver.auth import mint

# The output of `systemctl show` for an unknown unit, with the properties that the modules read.
DEAD = """MainPID=0
Result=success
NRestarts=0
ExecMainStartTimestamp=
ExecMainCode=0
ExecMainStatus=0
LoadState=loaded
ActiveState=inactive
SubState=dead
Job=
"""
_SYSTEMCTL = """#!/bin/sh
# systemctl show --timestamp=unix --property=NAMES UNIT…: prints alive/UNIT while that process lives, else dead/UNIT.
shift 3
for unit; do
    pid=$(cat "{0}/pid/$unit" 2>/dev/null)
    if [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null; then cat "{0}/alive/$unit"; else cat "{0}/dead/$unit" 2>/dev/null || cat "{0}/default"; fi
    echo
done
"""
_JOURNALCTL = """#!/bin/sh
cat "{0}/journal"
"""


class Clock:
    """Time that passes only in sleeps. `meanwhile` has the test's actions for the first sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.sleeps: list[float] = []
        self.meanwhile: list[Callable[[], object]] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(round(seconds, 3))
        self.now += seconds
        if self.meanwhile:
            self.meanwhile.pop(0)()


class Host:
    """A host. `shared` is a worker for all tests, with its control socket."""

    def __init__(self, directory: pathlib.Path, shared: tuple[Worker, str]) -> None:
        self.directory = directory
        self._shared, self._shared_socket = shared
        self.home = directory / "home"
        self.run = directory / "run"
        self.programs = directory / "bin"
        self._systemd = directory / "systemd"
        self._workers: list[Worker] = []
        self._guests = contextlib.ExitStack()
        for path in (
            self.home / "instances",
            self.run,
            self.programs,
            *(self._systemd / d for d in ("pid", "alive", "dead")),
        ):
            path.mkdir(parents=True)
        self._systemd.joinpath("default").write_text(DEAD)
        self._systemd.joinpath("journal").write_text("")
        for name, text in {"systemctl": _SYSTEMCTL, "journalctl": _JOURNALCTL}.items():
            self.programs.joinpath(name).write_text(text.format(self._systemd))
            self.programs.joinpath(name).chmod(0o755)

    def socket(self, name: str = "80") -> str:
        path = self.run / name / "control.sock"
        path.parent.mkdir(exist_ok=True)
        return str(path)

    def link(self, name: str = "80", generation: str = "1.0+abc-12345678", env: str = "") -> None:
        """Give instance `name` a generation with a release of its version."""
        release = self.home / "releases" / generation.rpartition("-")[0]
        release.mkdir(parents=True, exist_ok=True)
        directory = self.home / "generations" / generation
        if not directory.exists():
            directory.mkdir(parents=True)
            directory.joinpath("release").symlink_to(f"../../releases/{release.name}")
            directory.joinpath("env").write_text(env)
        link = self.home / "instances" / name
        link.unlink(missing_ok=True)
        link.symlink_to(f"../generations/{generation}")

    def worker(self, name: str = "80") -> Worker:
        """The shared ready worker, for tests that neither stop nor kill it."""
        self.link(name)
        pathlib.Path(self.socket(name)).symlink_to(self._shared_socket)
        self.set_process(self._shared.process.pid, name)
        return self._shared

    def start(self, name: str = "80", **settings: str) -> Worker:
        """A separate ready worker for one test."""
        self.link(name)
        settings = {"WS_BROKER": "memory", "WS_CONTROL_SOCKET": self.socket(name), **settings}
        worker = Worker("redis://127.0.0.1:1", **{key: value for key, value in settings.items() if value})
        self._workers.append(worker)
        self.set_process(worker.process.pid, name)
        asyncio.run(worker.ready())
        return worker

    def set_process(self, pid: int | None, name: str = "80", **properties: Any) -> None:
        """Make the unit active as long as this process lives. `properties` override systemd's."""
        unit = f"ws-server@{name}.service"
        alive = {
            "MainPID": pid or 0,
            "ActiveState": "active",
            "SubState": "running",
            "UnitFileState": "enabled",
            "ExecMainStartTimestamp": "@1795529805",
        }
        self._systemd.joinpath("pid", unit).write_text(str(pid or ""))
        self._systemd.joinpath("alive", unit).write_text(_properties(alive | properties))

    def set_ended_process(self, name: str = "80", **properties: Any) -> None:
        """Set systemd's properties for a unit without a process."""
        self._systemd.joinpath("dead", f"ws-server@{name}.service").write_text(_properties(properties))

    def log(self, *lines: str) -> None:
        self._systemd.joinpath("journal").write_text("".join(f"{line}\n" for line in lines))

    def guest(self, worker: Worker, user: str = "alice") -> ClientConnection:
        """A connected client, which leaves when the worker asks it to."""
        headers = {"Authorization": f"Bearer {mint(SECRET, user, 600)}"}
        url = f"ws://127.0.0.1:{worker.port}/ws"
        opening = connect(url, additional_headers=headers, proxy=None, ping_interval=None, open_timeout=30)
        connection = self._guests.enter_context(opening)
        assert json.loads(connection.recv(30))["type"] == "welcome"
        return connection

    def remove(self) -> None:
        for worker in self._workers:
            worker.remove()
        self._guests.close()


def _properties(properties: dict[str, Any]) -> str:
    lines = dict(line.split("=", 1) for line in DEAD.splitlines()) | properties
    return "".join(f"{name}={value}\n" for name, value in lines.items())


def run(module: Any, check: bool = False, **arguments: Any) -> dict[str, Any]:
    """Run a module and return its result, always with `failed`."""
    arguments |= {"_ansible_check_mode": check, "_ansible_diff": True}
    output = io.StringIO()
    with patch_module_args(arguments), contextlib.redirect_stdout(output), pytest.raises(SystemExit):
        module.main()
    returned: dict[str, Any] = json.loads(output.getvalue())
    return {"failed": False, "changed": False} | returned


def command(argv: list[str]) -> tuple[int, str, str]:
    """Like AnsibleModule.run_command."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout, done.stderr


def listener(path: str, backlog: int = 8) -> socket.socket:
    """Another program that listens at a worker's socket."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(path)
    server.listen(backlog)
    return server
