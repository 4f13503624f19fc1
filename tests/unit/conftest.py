# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors

from __future__ import annotations

import asyncio
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Iterator

import pytest
from hosts import Clock, Host
from support.worker import Worker

from ansible_collections.selfhost.websocket.plugins.module_utils import _instance
from ansible_collections.selfhost.websocket.plugins.module_utils._control import Control


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def standing() -> Iterator[tuple[Worker, str]]:
    # Not pytest's directory: its name may be too long for a socket.
    directory = tempfile.mkdtemp(prefix="ws-standing-")
    path = f"{directory}/control.sock"
    worker = Worker("redis://127.0.0.1:1", WS_BROKER="memory", WS_CONTROL_SOCKET=path)
    asyncio.run(worker.ready())
    yield worker, path
    worker.remove()
    shutil.rmtree(directory)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, standing: tuple[Worker, str]) -> Iterator[Host]:
    directory = pathlib.Path(tempfile.mkdtemp(prefix="ws-host-"))
    host = Host(directory, standing)
    monkeypatch.setattr(_instance, "HOME", host.home)
    monkeypatch.setattr(_instance, "RUN", host.run)
    monkeypatch.setenv("PATH", f"{host.programs}:{os.environ['PATH']}")
    yield host
    host.remove()
    shutil.rmtree(directory)
    make_fresh(Control(standing[1]))


def make_fresh(control: Control) -> None:
    """As a worker is that nobody has drained, and nobody is connected to."""
    deadline = time.monotonic() + 30
    while control._ask({"cmd": "undrain", "by": "tests", "force": True}).connections:
        assert time.monotonic() < deadline, "a client did not leave"
        time.sleep(0.02)
