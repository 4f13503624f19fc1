# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Servers taken out of the edge and back in, and the watcher that does so by itself."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from clients import connection, progress, watching
from fleet import ROOT, Fleet, changed, eventually


def ansible(
    fleet: Fleet, module: str, host: str, variables: dict[str, Any] | None = None, **options: Any
) -> dict[str, Any]:
    """What a module of this collection returns on a host."""
    settings = {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
        "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
    }
    done = subprocess.run(
        [
            *("ansible", host, "--inventory", fleet._inventory, "--extra-vars", json.dumps(variables or {})),
            *("--module-name", f"selfhost.websocket.{module}", "--args", json.dumps(options)),
        ],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | settings,
    )
    report = json.loads(done.stdout[done.stdout.index("{\n") :])
    result: dict[str, Any] = report["plays"][0]["tasks"][0]["hosts"][host]
    assert not result.get("failed"), result
    return result


@pytest.fixture
def servers(fleet: Fleet) -> Iterator[list[str]]:
    """Those of the clients' upstream; all are up again at the end."""
    upstream = fleet.ssh(fleet.edge, "sed -n '/upstream ws {/,/}/p' /etc/nginx/nginx.conf")
    listed = " ".join(re.findall(r"server (\S+) max_fails", upstream))
    yield listed.split()
    ansible(fleet, "nginx_upstream", fleet.edge, server=listed.split(), state="up", by="ops")


async def test_servers_that_are_out_get_no_new_clients_and_lose_none(fleet: Fleet, servers: list[str]) -> None:
    *away, left = servers
    options = {"server": away, "by": "ops"}

    async def run(**options: Any) -> dict[str, Any]:
        return await asyncio.to_thread(ansible, fleet, "nginx_upstream", fleet.edge, **options)

    await asyncio.to_thread(fleet.play, "--tags=nginx")  # with the variables that another test has changed
    async with watching(fleet) as witness:
        assert (await run(state="down", **options))["reloaded"]
        assert not (await run(state="down", **options))["changed"]

        since = time.time()
        async with AsyncExitStack() as stack:
            for _client in range(8):
                await stack.enter_async_context(connection(fleet, "newcomer"))

        def instances() -> list[str]:
            return [line["instance"][-2:] for line in fleet.journal("connect", since) if line["user"] == "newcomer"]

        await asyncio.to_thread(eventually, lambda: len(instances()) >= 8, 30, "eight newcomers in the log")
        assert set(instances()) == {left[-2:]}

        output = await asyncio.to_thread(fleet.play, "--tags=nginx")
        assert changed(output) == [], "the role leaves who is out as they are"
        assert (await run(state="up", **options))["reloaded"]
        await progress(witness, 50)
        assert not any(client.disconnects for client in witness.clients)


def metrics(fleet: Fleet) -> dict[str, float]:
    ask = "exec 3<>/dev/tcp/127.0.0.1/9145; printf 'GET /metrics HTTP/1.1\\r\\n\\r\\n' >&3; cat <&3"
    body = fleet.ssh(fleet.edge, f"bash -c {json.dumps(ask)}").partition("\n\n")[2].splitlines()
    samples = [line.rpartition(" ") for line in body if line and not line.startswith("#")]
    return {name: float(value) for name, _space, value in samples}


def test_the_watcher_watches(fleet: Fleet, servers: list[str]) -> None:
    wanted = {f'ws_edge_server_up{{server="{server}"}}' for server in servers}
    wanted |= {f'ws_edge_server_answer{{server="{server}",answer="ready"}}' for server in servers}
    eventually(lambda: {name for name, value in metrics(fleet).items() if value == 1} >= wanted, 60, "all up and ready")
    found = metrics(fleet)
    assert found["ws_edge_failures_total"] == 0
    before = found["ws_edge_last_poll_timestamp_seconds"]
    eventually(lambda: metrics(fleet)["ws_edge_last_poll_timestamp_seconds"] > before, 60, "the next poll")


def test_the_watcher_can_change_the_edge_from_within_its_sandbox(fleet: Fleet, servers: list[str]) -> None:
    """A mark of its own that nothing justifies: it takes that away."""
    before = metrics(fleet)
    ansible(fleet, "nginx_upstream", fleet.edge, server=servers[:1], state="down", by="watcher")
    up = f'ws_edge_server_up{{server="{servers[0]}"}}'
    eventually(lambda: metrics(fleet)[up] == 1, 60, "the watcher brings it back")
    eventually(lambda: metrics(fleet)["ws_edge_reloads_total"] > before["ws_edge_reloads_total"], 60, "with a reload")
    assert metrics(fleet)["ws_edge_failures_total"] == 0
    assert "# down" not in fleet.ssh(fleet.edge, "cat /etc/nginx/nginx.conf")


def test_the_watchers_sandbox(fleet: Fleet) -> None:
    security = fleet.ssh(fleet.edge, "systemd-analyze security --no-pager ws-edge-watcher | tail -1")
    print(security)
    assert float(security.split("ws-edge-watcher.service:")[1].split()[0]) <= 4.0


def test_a_conversation_through_the_edge(fleet: Fleet) -> None:
    """With the interpreter of a worker's release, as a playbook does it."""
    ca = "/tmp/ws-probe-ca.pem"
    pem = fleet.ssh(fleet.edge, "cat /etc/ssl/ws/ca.pem")
    fleet.ssh(fleet.worker_host, f"cat >{ca} <<'END'\n{pem}\nEND")
    interpreter = {"ansible_python_interpreter": "/opt/ws-server/instances/80/release/bin/python"}
    probe = ansible(
        fleet, "ws_probe", fleet.worker_host, interpreter, url=fleet.url, ca_file=ca, token=fleet.token("probe")
    )
    fleet.ssh(fleet.worker_host, f"rm {ca}")
    print(probe["steps"])
    assert sorted(probe["steps"]) == ["connect", "join", "leave", "publish", "receive"]
    assert probe["welcome"]["user"] == "probe"
