# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Servers taken out of the edge and returned, by modules and by the watcher."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import socket
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
    """Run a module of this collection on a host, and return its result."""
    settings = {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
        "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
    }
    done = subprocess.run(
        [
            *("ansible", host, "--inventory", fleet.inventory, "--extra-vars", json.dumps(variables or {})),
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
    """The servers of the clients' upstream. All are up again at the end."""
    upstream = fleet.ssh(fleet.edge, "sed -n '/upstream ws {/,/}/p' /etc/nginx/nginx.conf")
    listed = " ".join(re.findall(r"server (\S+) max_fails", upstream))
    yield listed.split()
    ansible(fleet, "nginx_upstream", fleet.edge, server=listed.split(), state="up", by="ops")


async def test_servers_that_are_down_get_no_new_clients_and_lose_none(fleet: Fleet, servers: list[str]) -> None:
    *away, left = servers
    options = {"server": away, "by": "ops"}

    async def run(**options: Any) -> dict[str, Any]:
        return await asyncio.to_thread(ansible, fleet, "nginx_upstream", fleet.edge, **options)

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
        assert changed(output) == [], "the role keeps the marks of servers that are down"
        assert (await run(state="up", **options))["reloaded"]
        await progress(witness, 50)
        assert not any(client.disconnects for client in witness.clients)


async def test_a_new_certificate_drops_no_client_and_old_processes_end_with_their_clients(fleet: Fleet) -> None:
    def shown() -> str:
        address = fleet.address(fleet.edge)
        with (
            socket.create_connection((address, 443), 10) as plain,
            fleet.trust.wrap_socket(plain, server_hostname=address) as client,
        ):
            return hashlib.sha256(client.getpeercert(binary_form=True) or b"").hexdigest()

    def lingering() -> float:
        return fleet.edge_metrics()["ws_edge_nginx_lingering_processes"]

    processes = int(fleet.ssh(fleet.edge, "nproc"))
    certificates = [shown()]
    async with AsyncExitStack() as stack:
        before = [await stack.enter_async_context(connection(fleet, "early")) for _client in range(4)]
        async with watching(fleet) as witness:
            for _reload in range(3):
                renew = "rm /etc/ssl/ws/edge.pem; systemctl start ws-edge-certificate.service"
                await asyncio.to_thread(fleet.ssh, fleet.edge, renew)
                await asyncio.to_thread(eventually, lambda: shown() not in certificates, 30, "the new certificate")
                certificates.append(shown())
                await progress(witness, 50)
            assert not any(client.disconnects for client in witness.clients)
            for client in before:
                assert await asyncio.wait_for(await client.ping(), 30) is not None
            left = await asyncio.to_thread(lingering)
            print(f"after {len(certificates) - 1} reloads {left:.0f} old processes, of {processes} per configuration")
            # Only processes with clients are left, and all clients connected before the first
            # reload.
            assert 1 <= left <= processes
    await asyncio.to_thread(eventually, lambda: lingering() == 0, 60, "no client, no old process")


def test_the_watcher_watches(fleet: Fleet, servers: list[str]) -> None:
    wanted = {f'ws_edge_server_up{{server="{server}"}}' for server in servers}
    wanted |= {f'ws_edge_server_answer{{answer="ready",server="{server}"}}' for server in servers}
    eventually(
        lambda: {name for name, value in fleet.edge_metrics().items() if value == 1} >= wanted, 60, "all up and ready"
    )
    found = fleet.edge_metrics()
    assert found["ws_edge_failures_total"] == 0
    before = found["ws_edge_last_poll_timestamp_seconds"]
    eventually(lambda: fleet.edge_metrics()["ws_edge_last_poll_timestamp_seconds"] > before, 60, "the next poll")


def test_the_watcher_can_change_the_edge_from_within_its_sandbox(fleet: Fleet, servers: list[str]) -> None:
    """The watcher removes its own mark from a healthy server."""
    before = fleet.edge_metrics()
    ansible(fleet, "nginx_upstream", fleet.edge, server=servers[:1], state="down", by="watcher")
    up = f'ws_edge_server_up{{server="{servers[0]}"}}'
    eventually(lambda: fleet.edge_metrics()[up] == 1, 60, "the watcher brings it back")
    eventually(
        lambda: fleet.edge_metrics()["ws_edge_reloads_total"] > before["ws_edge_reloads_total"], 60, "with a reload"
    )
    assert fleet.edge_metrics()["ws_edge_failures_total"] == 0
    assert "# down" not in fleet.ssh(fleet.edge, "cat /etc/nginx/nginx.conf")


def test_the_watchers_sandbox(fleet: Fleet) -> None:
    security = fleet.ssh(fleet.edge, "systemd-analyze security --no-pager ws-edge-watcher | tail -1")
    print(security)
    assert float(security.split("ws-edge-watcher.service:")[1].split()[0]) <= 4.0


def test_a_conversation_through_the_edge(fleet: Fleet) -> None:
    """The probe uses the interpreter of a worker's release, like a playbook."""
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
