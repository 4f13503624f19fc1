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
