# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Holders of ports: real listeners of this process, and a fake /proc for the units."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from ansible_collections.selfhost.websocket.plugins.module_utils._ports import Listener, held

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def entry(port: int, inode: int, state: str = "0A") -> str:
    return f"   0: 00000000:{port:04X} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1\n"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """nginx has 443, caddy 80 over IPv6, and an invisible process 9090."""
    (tmp_path / "net").mkdir()
    (tmp_path / "net/tcp").write_text(HEAD + entry(443, 11) + entry(9090, 13) + entry(6379, 14, state="01"))
    (tmp_path / "net/tcp6").write_text(HEAD + entry(80, 12))
    for pid, program, unit, inode in ((7, "nginx", "nginx.service", 11), (8, "caddy", "caddy.service", 12)):
        directory = tmp_path / str(pid)
        (directory / "fd").mkdir(parents=True)
        (directory / "fd/3").symlink_to(f"socket:[{inode}]")
        (directory / "fd/4").symlink_to("/dev/null")
        (directory / "comm").write_text(f"{program}\n")
        (directory / "cgroup").write_text(f"0::/system.slice/{unit}\n")
    return tmp_path


def test_ports_held_by_the_expected_units(proc: Path) -> None:
    assert held({"nginx.service": [443, 9079]}, proc) == []
    assert held({"ngin?.service": [443]}, proc) == []


def test_a_port_held_by_another_unit(proc: Path) -> None:
    assert held({"nginx.service": [80, 443]}, proc) == [Listener(80, 8, "caddy", "caddy.service")]


def test_one_of_two_units_may_have_a_port(proc: Path) -> None:
    assert held({"nginx.service": [80], "caddy.service": [80]}, proc) == []


def test_a_listener_without_a_process_that_can_be_seen(proc: Path) -> None:
    assert held({"prometheus.service": [9090]}, proc) == [Listener(9090)]


def test_a_connection_is_not_a_listener(proc: Path) -> None:
    assert held({"redis-server.service": [6379]}, proc) == []


def test_a_real_listener() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        (found,) = held({"nginx.service": [port]})
    assert (found.port, found.pid) == (port, os.getpid())
    assert found.program
    assert held({"nginx.service": [port]}) == []
