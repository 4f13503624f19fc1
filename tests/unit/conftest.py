# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from edge import Edge
from hosts import Clock, Host
from program import ROOT, finished
from prometheus import Prometheus
from support.worker import Worker

from ansible_collections.selfhost.websocket.plugins.module_utils import _instance
from ansible_collections.selfhost.websocket.plugins.module_utils._control import Control

Module = Callable[..., dict[str, Any]]


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Edge]:
    started = Edge(tmp_path)
    started.start()
    yield started
    started.stop()


@pytest.fixture
def prometheus() -> Iterator[Prometheus]:
    started = Prometheus()
    yield started
    started.stop()


@pytest.fixture
def module() -> Module:
    """Runs a module through Ansible: module("nginx_upstream", check=…, **options)."""

    def run(name: str, check: bool = False, **options: Any) -> dict[str, Any]:
        settings = {
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "lab/collections"),
            "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
        }
        done = finished(
            [
                *(Path(sys.executable).with_name("ansible"), "localhost", "--diff", *(["--check"] if check else [])),
                *("--extra-vars", json.dumps({"ansible_python_interpreter": sys.executable})),
                *("--module-name", f"selfhost.websocket.{name}", "--args", json.dumps(options)),
            ],
            env=os.environ | settings,
        )
        report = json.loads(done.stdout[done.stdout.index("{\n") :])
        result: dict[str, Any] = report["plays"][0]["tasks"][0]["hosts"]["localhost"]
        return result

    return run


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def shared_worker() -> Iterator[tuple[Worker, str]]:
    # Not pytest's directory: its name may be too long for a socket.
    directory = tempfile.mkdtemp(prefix="ws-shared-")
    path = f"{directory}/control.sock"
    worker = Worker("redis://127.0.0.1:1", WS_BROKER="memory", WS_CONTROL_SOCKET=path)
    asyncio.run(worker.ready())
    yield worker, path
    worker.remove()
    shutil.rmtree(directory)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, shared_worker: tuple[Worker, str]) -> Iterator[Host]:
    directory = Path(tempfile.mkdtemp(prefix="ws-host-"))
    host = Host(directory, shared_worker)
    monkeypatch.setattr(_instance, "HOME", host.home)
    monkeypatch.setattr(_instance, "RUN", host.run)
    monkeypatch.setenv("PATH", f"{host.programs}:{os.environ['PATH']}")
    yield host
    host.remove()
    shutil.rmtree(directory)
    make_fresh(Control(shared_worker[1]))


def make_fresh(control: Control) -> None:
    """End all drains and connections of a worker."""
    deadline = time.monotonic() + 30
    while control._ask({"cmd": "undrain", "by": "tests", "force": True}).connections:
        assert time.monotonic() < deadline, "a client did not leave"
        time.sleep(0.02)
