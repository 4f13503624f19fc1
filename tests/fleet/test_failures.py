# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Failures and their effect on clients. The witness checks the promise throughout."""

from __future__ import annotations

import asyncio
import time

import pytest
from clients import connection, new_clients, progress, watching
from fleet import Fleet, eventually
from websockets.exceptions import InvalidStatus

# The edge skips a dead worker at once, and a hung worker once the watchdog has killed it (8 s, plus
# 2 s to end). The bounds allow for a slow machine; the tests print the measured times.
GONE_S = 5.0
WEDGED_S = 25.0


async def until_ready(fleet: Fleet, instance: str) -> None:
    await asyncio.to_thread(eventually, lambda: fleet.ready(instance), 60, f"worker {instance} ready")


async def test_kill_9_of_a_worker(fleet: Fleet) -> None:
    pid = fleet.pid("81")
    async with watching(fleet), new_clients(fleet) as waits:
        await asyncio.to_thread(fleet.ssh, fleet.worker_host, f"kill -9 {pid}")
        await asyncio.to_thread(eventually, lambda: fleet.pid("81") not in (0, pid), 60, "systemd starts it again")
        await until_ready(fleet, "81")
    print(f"longest wait of {len(waits)} new clients: {max(waits):.2f} s")
    assert max(waits) < GONE_S


async def test_the_edge_skips_a_stopped_worker(fleet: Fleet) -> None:
    async with watching(fleet), new_clients(fleet) as waits:
        # A stop drains: the worker asks its clients to leave, and they resume elsewhere.
        await asyncio.to_thread(fleet.ssh, fleet.worker_host, "systemctl stop ws-server@80")
        await asyncio.sleep(3)
        await asyncio.to_thread(fleet.ssh, fleet.worker_host, "systemctl start ws-server@80")
    print(f"longest wait of {len(waits)} new clients: {max(waits):.2f} s")
    assert max(waits) < GONE_S


async def test_the_watchdog_replaces_a_hung_worker(fleet: Fleet) -> None:
    pid = fleet.pid("81")
    async with watching(fleet), new_clients(fleet) as waits:
        await asyncio.to_thread(fleet.ssh, fleet.worker_host, f"kill -STOP {pid}")
        await asyncio.to_thread(eventually, lambda: fleet.pid("81") not in (0, pid), 60, "the watchdog replaces it")
        await until_ready(fleet, "81")
    print(f"longest wait of {len(waits)} new clients: {max(waits):.2f} s")
    assert max(waits) < WEDGED_S


async def test_what_anything_but_systemctl_ends_comes_back(fleet: Fleet) -> None:
    """SIGTERM ends nginx and a worker with status 0, and `kill -9` of the postmaster leaves its
    processes and files behind. A worker that systemctl stopped stays down.
    """

    def main_pid(host: str, unit: str) -> int:
        return int(fleet.ssh(host, f"systemctl show --property=MainPID --value '{unit}'"))

    def state(instance: str) -> str:
        table = fleet.ssh(fleet.worker_host, "ws-server ctl 2>/dev/null", check=False)
        return next((row.split()[1] for row in table.splitlines() if row.startswith(f"{instance} ")), "not listed")

    async def again(host: str, unit: str, pid: int) -> None:
        await asyncio.to_thread(eventually, lambda: main_pid(host, unit) not in (0, pid), 60, f"{unit} again")

    def answers() -> bool:
        return fleet.ssh(fleet.postgres_host, "psql -U postgres -tAc 'SELECT 1' ws", check=False).strip() == "1"

    [cluster] = fleet.ssh(
        fleet.postgres_host, "systemctl list-units --plain --no-legend 'postgresql@*' | cut -d' ' -f1"
    ).split()
    ends = [
        (fleet.worker_host, "ws-server@81", "TERM"),
        (fleet.edge, "nginx", "TERM"),
        (fleet.postgres_host, cluster, "KILL"),
    ]
    async with watching(fleet) as witness:
        await asyncio.to_thread(fleet.ssh, fleet.worker_host, "systemctl stop ws-server@80")
        before = [await asyncio.to_thread(main_pid, host, unit) for host, unit, _signal in ends]
        for (host, _unit, signal), pid in zip(ends, before, strict=True):
            await asyncio.to_thread(fleet.ssh, host, f"kill -{signal} {pid}")
        await asyncio.to_thread(eventually, lambda: state("81") == "down", 30, "ctl shows the dead worker")
        for (host, unit, _signal), pid in zip(ends, before, strict=True):
            await again(host, unit, pid)
        await until_ready(fleet, "81")
        await asyncio.to_thread(eventually, answers, 60, "Postgres answers")
        assert state("80") == "down", "systemd restarted a worker that systemctl had stopped"
        await asyncio.to_thread(fleet.ssh, fleet.worker_host, "systemctl start ws-server@80")
        await progress(witness, 50)


async def test_redis_is_stopped_and_started(fleet: Fleet) -> None:
    """Without Redis no worker is ready: new clients get 503 at once, open ones stay, nothing is
    lost.
    """
    async with watching(fleet) as witness:
        await asyncio.to_thread(fleet.ssh, fleet.redis_host, "systemctl stop redis-server")
        await asyncio.sleep(5)
        start = time.monotonic()
        with pytest.raises(InvalidStatus) as refused:
            async with connection(fleet, "newcomer"):
                pass
        assert refused.value.response.status_code == 503
        assert time.monotonic() - start < GONE_S
        await asyncio.to_thread(fleet.ssh, fleet.redis_host, "systemctl start redis-server")
        start = time.monotonic()
        while True:
            try:
                async with connection(fleet, "newcomer"):
                    break
            except InvalidStatus:
                await asyncio.sleep(0.05)
        back = time.monotonic() - start
        print(f"back {back:.2f} s after Redis")
        assert back < GONE_S
        await progress(witness, 50)
        assert not any(client.disconnects for client in witness.clients), "an open connection was dropped"


async def test_redis_restarted_and_killed(fleet: Fleet) -> None:
    async with watching(fleet) as witness:
        await progress(witness, 50)
        for command in ("systemctl restart redis-server", "systemctl kill --signal=KILL redis-server"):
            await asyncio.to_thread(fleet.ssh, fleet.redis_host, command)
            await progress(witness, 100)
