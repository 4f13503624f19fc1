# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""One host goes from Debian 12 to 13 with the commands of docs/operations.md.

See ci/debian_upgrade.sh.
"""

from __future__ import annotations

import asyncio
import re
import shlex
import subprocess
from typing import Any
from urllib.parse import quote

import pytest
from clients import progress, watching
from fleet import ROOT, Fleet, changed, eventually
from observer import Observer
from rollouts import assert_settled, links

pytestmark = pytest.mark.debian_upgrade

ROOM = "orders:1"  # durable: the inventory has ws_server_durable_rooms
BEFORE = 60  # more than Redis keeps: the inventory has ws_server_room_log_length
UPGRADE_S = 900
REDIS = 'REDISCLI_AUTH="$(cat /etc/redis/admin-password)" redis-cli --user admin'


def documented_commands() -> list[str]:
    """The blocks of commands in the steps of the section, each as a script."""
    text = (ROOT / "docs/operations.md").read_text()
    section = text.partition("\n## Upgrade Debian\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"(?:^ {7}\S.*\n)+", section, re.MULTILINE)
    return [re.sub("^ {7}", "", block, flags=re.MULTILINE) for block in blocks]


async def run(fleet: Fleet, script: str) -> None:
    """Run commands as an operator who answers each question of apt with yes."""
    command = fleet.command(fleet.worker_host, f"export DEBIAN_FRONTEND=noninteractive; set -ex; {script}")
    process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.DEVNULL)
    async with asyncio.timeout(UPGRADE_S):
        assert await process.wait() == 0, script


def publish(fleet: Fleet, *data: Any) -> None:
    for each in data:
        status, answer = fleet.api("POST", "/v1/publish", {"room": ROOM, "data": each})
        assert status == 200, answer


def history(fleet: Fleet) -> list[Any]:
    """The data of all messages of the room, oldest first."""
    status, page = fleet.api("GET", f"/v1/rooms/{quote(ROOM, safe='')}/history?limit=100")
    assert status == 200, page
    assert not page["more"]
    return [message["data"] for message in page["messages"]]


async def reboot(fleet: Fleet) -> None:
    host, started = fleet.worker_host, "cut -d' ' -f22 /proc/1/stat"
    before = fleet.ssh(host, started)

    def is_up() -> bool:
        try:
            return fleet.ssh(host, started) != before
        except (AssertionError, subprocess.TimeoutExpired):
            return False

    fleet.ssh(host, "systemctl reboot", check=False)
    await asyncio.to_thread(eventually, is_up, 120, "the host is up again")
    await asyncio.to_thread(eventually, fleet.whole, 120, "every worker ready")


async def test_a_host_goes_from_debian_12_to_13(fleet: Fleet, observer: Observer) -> None:
    host = fleet.worker_host
    upgrade_packages, upgrade_cluster, remove_packages = documented_commands()
    await run(fleet, """echo 'APT::Get::Assume-Yes "true";' >/etc/apt/apt.conf.d/95yes""")
    publish(fleet, *range(BEFORE))
    fleet.ssh(host, f"{REDIS} SET ws:test:kept apples")
    before = links(fleet)
    async with watching(fleet) as witness:
        await progress(witness, 50)
        await run(fleet, upgrade_packages)
        publish(fleet, "with new packages")
        await run(fleet, upgrade_cluster)
        publish(fleet, "with the new cluster")
        await reboot(fleet)
        publish(fleet, "after the reboot")
        assert links(fleet) == before
        output = await asyncio.to_thread(fleet.play, "--extra-vars=ws_server_canary_s=3")
        assert "Connect through each edge as a client" in output
        await run(fleet, remove_packages)
        await progress(witness, 50)
    publish(fleet, "after site.yml")

    assert fleet.ssh(host, ". /etc/os-release; echo $VERSION_CODENAME").strip() == "trixie"
    assert not set(links(fleet).values()) & set(before.values())
    assert_settled(fleet)
    stages = ["with new packages", "with the new cluster", "after the reboot", "after site.yml"]
    assert history(fleet) == [*range(BEFORE), *stages]
    assert fleet.ssh(host, f"{REDIS} GET ws:test:kept").strip() == "apples"
    assert fleet.ssh(host, "systemctl --failed --plain --no-legend") == ""
    assert re.findall(r"\S+", fleet.ssh(host, "pg_lsclusters --no-header"))[:3] == ["17", "main", "5432"]


def test_a_second_run_changes_nothing(fleet: Fleet) -> None:
    assert changed(fleet.play()) == []


def test_a_rollback_to_the_same_release_runs_with_the_new_interpreter(fleet: Fleet) -> None:
    """`site` has rebuilt the release, and the older generation links to it."""
    before = links(fleet)
    fleet.play(playbook="rollback.yml")
    assert links(fleet) != before
    assert_settled(fleet)
    for instance in fleet.instances():
        assert "python3.13" in fleet.ssh(fleet.worker_host, f"readlink /proc/{fleet.pid(instance)}/exe")


def probe_success(fleet: Fleet, observer: Observer, module: str) -> float:
    """The result of a probe of the edge by the blackbox exporter."""
    address = fleet.address(fleet.edge)
    url = f"http://127.0.0.1:9115/probe?module={module}&target=https://{address}/&hostname={address}"
    program = f"import urllib.request; print(urllib.request.urlopen('{url}').read().decode())"
    [found] = re.findall(r"^probe_success (.*)$", observer.ssh(shlex.join(["python3", "-c", program])), re.MULTILINE)
    return float(found)


def test_prometheus_trusts_the_private_authority_of_the_edge(fleet: Fleet, observer: Observer) -> None:
    """The inventory has nginx_tls_ca. Without that CA, the probe fails and WsEdgeDown fires."""

    def answers() -> bool:
        [probes] = observer.query('probe_success{job="edge"}')
        return [float(probe["value"][1]) for probe in probes] == [1.0]

    eventually(answers, 60, "Prometheus reaches the edge", every=2)
    assert probe_success(fleet, observer, "own_authority") == 1
    assert probe_success(fleet, observer, "edge") == 0, "the system trusts the CA, so the test proves nothing"
