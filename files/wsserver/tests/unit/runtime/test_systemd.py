# SPDX-License-Identifier: MIT
from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from wsserver.runtime import systemd


@pytest.fixture
def received(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket of systemd."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(10)
        yield listening


def test_states_arrive(received: socket.socket) -> None:
    assert systemd.notify("READY=1\nSTATUS=serving")
    assert received.recv(100) == b"READY=1\nSTATUS=serving"


def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert systemd.notify("READY=1")


def test_a_systemd_that_does_not_read_blocks_nothing(received: socket.socket) -> None:
    sent = 0
    while systemd.notify("WATCHDOG=1"):
        sent += 1
        assert sent < 100_000, "the queue has no end"
    received.recv(100)
    assert systemd.notify("WATCHDOG=1")


def test_a_systemd_that_is_gone_raises_nothing(received: socket.socket) -> None:
    received.close()
    assert not systemd.notify("WATCHDOG=1")


def test_a_process_without_free_descriptors_feeds_the_watchdog(received: socket.socket) -> None:
    systemd.notify("WATCHDOG=1")
    received.recv(100)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    opened: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):  # noqa: PT012 - until it happens
            while True:
                opened.append(os.dup(0))
        assert systemd.notify("WATCHDOG=1")
    finally:
        for number in opened:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert received.recv(100) == b"WATCHDOG=1"
