# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Two hosts with an edge and workers each: one leaves, is lost and comes back."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from cable import unplugged
from clients import connection, finish, new_clients, progress, watching, witness
from fleet import Fleet, changed, eventually
from rollouts import assert_settled, install, links, observed

pytestmark = pytest.mark.hosts

SHORT_WATCH = "--extra-vars=ws_server_canary_s=3"
# A new client waits for a lost host only until the watcher has taken that host out. The tests print
# the measured times; the bounds allow for a slow machine.
OUT_S = 60.0
WAIT_S = 20.0


@pytest.fixture
def other(fleet: Fleet) -> str:
    """The worker host without the clients' edge and without the lock."""
    [_first, other] = fleet.worker_hosts
    return other


def named_up(fleet: Fleet, host: str) -> list[bool]:
    """Whether the first edge sends new clients to each server of a host."""
    server = f'ws_edge_server_up{{server="{fleet.address(host)}:'
    return [bool(value) for name, value in fleet.edge_metrics().items() if name.startswith(server)]


async def out_and_in(fleet: Fleet, host: str, state: bool, within: float) -> float:
    word = "in" if state else "out"
    waited = await asyncio.to_thread(
        eventually, lambda: set(named_up(fleet, host)) == {state}, within, f"{host} is {word}"
    )
    print(f"{host} is {word} after {waited:.1f} s")
    return waited


async def maintain(fleet: Fleet, host: str, action: str, *options: str) -> str:
    variables = ["--extra-vars", f"ws_host={host} ws_action={action}"]
    return await asyncio.to_thread(fleet.play, *options, *variables, playbook="host_maintenance.yml")


async def test_check_mode_of_maintenance_changes_nothing(fleet: Fleet, other: str) -> None:
    state = "ws-server ctl status --json | grep -o '\"drained_by\": *[^]]*'; cut -d' ' -f22 /proc/1/stat"

    def look() -> list[str]:
        edges = [fleet.ssh(edge, "cat /etc/nginx/nginx.conf") for edge in fleet.edges]
        return [fleet.ssh(other, state), fleet.ssh(fleet.worker_host, "ls /var/lib/ws-fleet"), *edges]

    before = look()
    said = await maintain(fleet, other, "reboot", "--check")  # out, a reboot, and in
    assert {"Take the host out of the edges", "Drain the workers"} <= {
        task.rpartition(": ")[2] for task in changed(said)
    }
    assert look() == before


@pytest.mark.long  # two check runs of all hosts; the decisions themselves are unit tests of rollout_gate and rollout_plan
async def test_no_rollout_waits_for_workers_that_it_repairs_nor_a_rollback_for_a_new_host(
    fleet: Fleet, other: str
) -> None:
    """Check mode queries the workers of the other hosts, too."""
    turn = f"Worker 80 of {fleet.worker_host}, "
    later = f"Worker 80 of {other}, "
    fleet.ssh(other, "systemctl stop ws-server@81")
    try:
        said = fleet.play("--check", "--extra-vars=ws_server_heartbeat_s=23", playbook="rolling_update.yml")
        assert turn in said, said[-6000:]
        assert later in said, said[-6000:]
    finally:
        fleet.ssh(other, "systemctl start ws-server@81")
    eventually(fleet.whole, 60, "every worker ready")
    before = "/opt/ws-server/before"
    fleet.ssh(other, f"mv {before} {before}.away")
    try:
        said = fleet.play("--check", playbook="rollback.yml")
        assert turn in said, said[-6000:]
        assert later not in said
    finally:
        fleet.ssh(other, f"mv {before}.away {before}")


async def test_a_host_reboots_for_maintenance(fleet: Fleet, other: str) -> None:
    """No client waits for the host, and its clients have left before."""
    boots = "cut -d' ' -f22 /proc/1/stat"
    before = fleet.ssh(other, boots)
    async with watching(fleet) as one, new_clients(fleet, at_once=1) as waits:
        await progress(one, 50)
        said = await maintain(fleet, other, "reboot")
        await progress(one, 50)
    assert f"{other} is in" in said
    assert fleet.ssh(other, boots) != before
    print(f"longest wait of {len(waits)} new clients: {max(waits):.2f} s")
    assert max(waits) < WAIT_S
    assert set(named_up(fleet, other)) == {True}
    assert_settled(fleet, "restart-asked")


async def test_a_host_that_loses_its_network(fleet: Fleet, other: str) -> None:
    # With so many rooms, the log of each still has the messages since the cut when the host is
    # back.
    async with watching(fleet, connections=20, rooms=10) as one:
        await progress(one, 50)
        with unplugged(fleet.address(other)):
            await out_and_in(fleet, other, False, OUT_S)
            async with new_clients(fleet) as waits:
                await asyncio.sleep(10)
            print(f"longest wait of {len(waits)} new clients: {max(waits):.2f} s")
            assert max(waits) < WAIT_S
        await out_and_in(fleet, other, True, 60)
        await asyncio.to_thread(eventually, fleet.whole, 60, "all workers are ready by themselves")
        await progress(one, 50)


async def test_a_host_that_loses_its_network_while_its_worker_is_replaced(fleet: Fleet, other: str) -> None:
    """The rollout stops, and the other host serves. The next run finishes."""
    before = {host: links(fleet, host=host) for host in fleet.worker_hosts}

    def roll() -> str:
        said = []
        with fleet.playing("rolling_restart.yml", SHORT_WATCH) as run:
            for line in run.stdout or ():
                said.append(line)
                if f"Worker 80 of {other}, " in line:
                    break
            else:
                raise AssertionError("".join(said)[-6000:])
            with unplugged(fleet.address(other)):
                begin = time.monotonic()
                said += run.stdout or ()
                assert run.wait() != 0
                print(f"the rollout has stopped {time.monotonic() - begin:.0f} s after the cut")
                eventually(lambda: set(named_up(fleet, other)) == {False}, OUT_S, "the edge has taken it out")
                asyncio.run(_serves(fleet))
        return "".join(said)

    # The clients detect the loss only after the rollout has, so the rate is low enough for the
    # room's log.
    async with watching(fleet, rate=10.0) as one:
        await progress(one, 10)
        said = await asyncio.to_thread(roll)
        assert "UNREACHABLE" in said or "unreachable" in said, said[-6000:]
        await out_and_in(fleet, other, True, 60)
        said = await asyncio.to_thread(fleet.play, SHORT_WATCH, playbook="rolling_restart.yml")
        assert "is taken over: that run has ended" in " ".join(said.split()), said[-6000:]
        await progress(one, 10)
    assert {host: links(fleet, host=host) for host in fleet.worker_hosts} == before
    assert_settled(fleet, "restart-asked")


async def _serves(fleet: Fleet) -> None:
    begin = time.monotonic()
    async with connection(fleet, "newcomer"):
        assert time.monotonic() - begin < WAIT_S


async def test_hosts_of_one_batch_take_turns_and_stop_together(fleet: Fleet, other: str, tmp_path: Path) -> None:
    """Both hosts are in one batch. The release is bad, so only the first worker is touched."""
    source = install(fleet, tmp_path, {"worker/worker.py": "\nWorker.state = property(lambda self: 'starting')\n"})
    variables = [f"ws_server_source={source}", "ws_server_ready_timeout=10", "ws_roll_serial=100%"]
    arguments = [word for variable in variables for word in ("--extra-vars", variable)]
    before = {host: links(fleet, host=host) for host in fleet.worker_hosts}
    async with witness(fleet) as one:
        with observed(fleet) as first, observed(fleet, other) as second:
            said = await asyncio.to_thread(fleet.play, *arguments, playbook="rolling_update.yml", fails=True)
        await finish(one)
    assert f"The rollout has stopped at worker 80 of {fleet.worker_host}" in " ".join(said.split()), said[-6000:]
    assert {host: links(fleet, host=host) for host in fleet.worker_hosts} == before
    assert {instance for instance, pids in first.pids().items() if len(pids) > 1} == {"80"}
    assert {len(pids) for pids in second.pids().values()} == {1}


async def test_a_host_is_removed_and_added(fleet: Fleet, other: str, tmp_path: Path) -> None:
    """The inventory is edited after the host's clients have left."""
    inventory = yaml.safe_load((fleet.inventory / "hosts.yml").read_text())

    def hosts(*names: str) -> Path:
        for group in ("ws_workers", "ws_edge"):
            inventory["all"]["children"][group]["hosts"] = dict.fromkeys(names)
        path = tmp_path / f"{'-'.join(names)}.yml"
        path.write_text(yaml.safe_dump(inventory, sort_keys=False))
        return path

    # The first host in the inventory keeps the secrets. The workers' keys stay the same in any
    # case.
    without, other_first = hosts(fleet.worker_host), hosts(other, fleet.worker_host)

    async def site(**options: Any) -> None:
        await asyncio.to_thread(fleet.play, SHORT_WATCH, **options)

    async with watching(fleet) as one, new_clients(fleet, at_once=1) as waits:
        await maintain(fleet, other, "out")
        await asyncio.to_thread(fleet.ssh, other, "systemctl disable --now ws-server@{80,81}")
        await site(inventory=without)
        assert named_up(fleet, other) == []
        await progress(one, 50)
        await site(inventory=other_first)
        await out_and_in(fleet, other, True, 60)
        await progress(one, 50)
    print(f"longest wait of {len(waits)} new clients: {max(waits):.2f} s")
    assert max(waits) < WAIT_S
    assert_settled(fleet)
