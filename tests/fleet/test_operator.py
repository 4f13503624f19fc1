# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The command ws-server ctl on a worker's host."""

from __future__ import annotations

import asyncio
import json
import re
import uuid

from clients import closed, connection, join
from fleet import Fleet


async def test_ctl_shows_the_workers_of_a_host(fleet: Fleet) -> None:
    async with connection(fleet, "alice") as alice:
        await join(alice, uuid.uuid4().hex)
        head, *rows = (await asyncio.to_thread(fleet.ssh, fleet.worker_host, "ws-server ctl")).splitlines()
        assert head.split()[:3] == ["WORKER", "STATE", "CONNECTIONS"]
        assert [row.split()[:2] for row in rows] == [[instance, "ready"] for instance in ("80", "81", "82", "83")]
        workers = json.loads(await asyncio.to_thread(fleet.ssh, fleet.worker_host, "ws-server ctl status --json"))
        assert sum(worker["connections"] for worker in workers) >= 1
        assert all(worker["broker"]["available"] and worker["archive"]["available"] for worker in workers)


def test_top_shows_one_frame_without_a_terminal(fleet: Fleet) -> None:
    """Without a terminal, the command prints one frame."""
    _head, _, heads, *rows = fleet.ssh(fleet.worker_host, "COLUMNS=200 ws-server ctl top").splitlines()
    assert heads.split()[:3] == ["WORKER", "STATE", "CONNS"]
    assert [row.split()[:2] for row in rows] == [
        *([name, "ready"] for name in ("80", "81", "82", "83")),
        ["all", "4/4"],
    ]
    assert all(re.search(r"\d+ms .*\d+% +\d+M\b", row) for row in rows), "lag, CPU and memory"


async def test_a_user_is_kicked(fleet: Fleet) -> None:
    user = f"kicked-{uuid.uuid4().hex[:8]}"
    async with connection(fleet, user) as client:
        command = f"ws-server ctl kick --user {user} --reason 'not today'"
        said = await asyncio.to_thread(fleet.ssh, fleet.worker_host, command)
        assert sorted(line.split(": ")[1] for line in said.splitlines()) == ["0 closed"] * 3 + ["1 closed"]
        assert await closed(client) == (1008, "not today")


def test_only_root_and_the_group_may_use_the_control_socket(fleet: Fleet) -> None:
    """Only root, the service itself and its group may use the control socket."""

    def ask(who: str) -> str:
        return fleet.ssh(fleet.worker_host, f"{who} ws-server ctl status --instance 80 2>&1", check=False)

    assert "ready" in ask("")
    assert "ready" in ask("runuser --user nobody --supp-group app --")
    assert "obeys root and its own group" in ask("runuser --user nobody --")
    modes = fleet.ssh(fleet.worker_host, "stat --format='%a %U %G' /run/ws-server/80 /run/ws-server/80/control.sock")
    assert modes.splitlines() == ["750 app app", "660 app app"]
